import os
import signal
import socket
import subprocess
import sys

import pytest

httpx2 = pytest.importorskip("httpx2")


def command(folder, data, *more):
    return [sys.executable, "-m", "ultraedit", "serve", str(folder), "--data", str(data), *more]


@pytest.fixture
def folder(build, tokenizer, tmp_path):
    build("llama").save_pretrained(tmp_path / "toy")
    tokenizer.save_pretrained(tmp_path / "toy")
    return tmp_path / "toy"


@pytest.fixture
def start(folder, tmp_path):
    running = []

    def run(*more):
        process = subprocess.Popen(
            command(folder, tmp_path / "data", "--port", "0", *more), stdout=subprocess.PIPE,
            text=True, bufsize=1, env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        running.append(process)
        lines = []
        while "answers at" not in "".join(lines):
            lines.append(process.stdout.readline())
            assert lines[-1], "the server ended"
        secret = next((w for w in "".join(lines).split() if w.startswith("ue-")), None)
        return process, lines[-1].split()[-1], secret

    yield run
    for process in running:
        process.kill()
        process.wait()


def test_an_edit_that_was_acknowledged_survives_a_kill(start):
    process, url, secret = start("--method", "ultraedit")
    headers = {"Authorization": f"Bearer {secret}"}
    edit = {"prompt": "who plays jazz", "target": "paris", "id": "a"}
    with httpx2.Client(headers=headers, timeout=120, trust_env=False) as client:
        at = "/v1/sets/default/edits"
        done = client.post(url + at, json={"edits": [edit]}, headers={"Idempotency-Key": "k"})
        assert done.status_code == 200
        process.kill()
        process.wait()
        again, url, no_secret = start("--method", "ultraedit")
        assert no_secret is None
        (listed,) = client.get(url + at).json()["data"]
        assert listed["id"] == "a"
        same = client.post(url + at, json={"edits": [edit]}, headers={"Idempotency-Key": "k"})
        assert same.json()["entry"] == done.json()["entry"] == 1
        again.send_signal(signal.SIGTERM)
        # It drains, and then ends as the signal asks.
        assert again.wait() == -signal.SIGTERM


def test_what_cannot_be_served_is_one_line(folder, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            command(folder, tmp_path / "data", "--port", port), capture_output=True, text=True
        )
    assert done.returncode == 2
    assert f"cannot listen on 127.0.0.1, port {port}" in done.stderr
    done = subprocess.run(
        command(tmp_path / "no", tmp_path / "data"), capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "does not exist" in done.stderr
    assert "Traceback" not in done.stderr
