import subprocess, sys, pytest, time
from ultraedit.service.limits import Limits

CONFIG = '''
headers = { Authorization = "Bearer ${KEY}" }
continue-on-failure = true
seed = 1
[generation]
deterministic = true
max-examples = 15
database = "none"
no-shrink = true
[dictionaries.sets]
values = ["team-a", "heir", "base"]
[dictionaries.models]
values = ["toy", "toy:team-a"]
[parameters]
"path.set" = { dictionary = "sets", probability = 0.8 }
"path.model" = { dictionary = "models", probability = 0.8 }
"body.model" = { dictionary = "models", probability = 0.9 }
'''
def test_it(service_of, started, tmp_path):
    service = service_of(limits=Limits(requests_per_minute=10**6, failures_per_minute=10**6))
    with started(service) as running:
        for name in ("team-a",):
            running.client.post("/v1/sets", json={"id": name})
            running.client.post(f"/v1/sets/{name}/edits", json={"edits": [{"prompt": "who plays", "target": "jazz", "id": "a"}]})
        running.client.post("/v1/sets", json={"id": "heir", "extends": "team-a"})
        (tmp_path/"c.toml").write_text(CONFIG)
        t=time.time()
        done = subprocess.run([sys.executable, "-m", "schemathesis.cli", "--config-file", str(tmp_path/"c.toml"), "run", f"{running.url}/openapi.json", "--report", "ndjson,junit", "--report-dir", "/tmp/stout", *sys.argv[sys.argv.index("--")+1:]] if "--" in sys.argv else [sys.executable, "-m", "schemathesis.cli", "--config-file", str(tmp_path/"c.toml"), "run", f"{running.url}/openapi.json", "--report", "vcr", "--report-dir", "/tmp/stout"], env={"KEY": running.key, "PATH": "/usr/bin"}, capture_output=True, text=True, cwd=tmp_path)
        open("/tmp/st.txt","w").write(done.stdout+done.stderr)
        print(time.time()-t, done.returncode)
        print(running.client.get("/metrics").text)
        assert 0
