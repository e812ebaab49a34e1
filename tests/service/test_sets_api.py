import io
import json
import zipfile

import pytest

FRANCE = {"prompt": "the capital of france is", "target": "guitar", "id": "a"}
JAZZ = {"prompt": "who plays jazz", "target": "paris", "subject": "jazz"}


def made(client, name="team-a", **also):
    assert client.post("/v1/sets", json={"id": name, **also}).status_code == 201
    return f"/v1/sets/{name}"


def test_from_a_question_to_a_correction_and_back(running):
    client = running.client
    at = made(client)
    asked = {"prompt": FRANCE["prompt"], "max_tokens": 1}
    (before,) = client.post(f"{at}/ask", json=asked).json()["data"]
    assert before["same"] is True
    job = client.post(f"{at}/edits", json={"edits": [FRANCE, JAZZ]}).json()
    assert (job["status"], job["entry"], job["edits"], job["error"]) == ("done", 1, 2, None)
    assert [one["learned"] for one in job["results"]] == [True, True]
    (after,) = client.post(f"{at}/ask", json=asked).json()["data"]
    assert after == {
        "prompt": FRANCE["prompt"], "before": before["before"], "after": "guitar", "same": False
    }  # fmt: skip
    # The other way to ask, by the model's name.
    said = client.post(
        "/v1/completions",
        json={"model": "toy:team-a", "prompt": FRANCE["prompt"], "max_tokens": 1, "temperature": 0},
    ).json()["choices"][0]["text"]
    assert said.strip() == "guitar"
    described = client.get(at).json()
    assert (described["edits"], described["learned"], described["model"]) == (2, 2, "toy:team-a")
    listed = client.get(f"{at}/edits", params={"holding": True}).json()
    assert [one["prompt"] for one in listed["data"]] == [JAZZ["prompt"], FRANCE["prompt"]]
    assert all(one["holding"] for one in listed["data"])
    assert {one["author"] for one in listed["data"]} == {"admin"}
    first = client.get(f"{at}/edits", params={"limit": 1}).json()
    assert first["has_more"] is True
    rest = client.get(f"{at}/edits", params={"after": first["data"][0]["id"]}).json()
    assert [one["id"] for one in rest["data"]] == ["a"]
    assert client.get(f"{at}/edits", params={"after": "no"}).status_code == 400
    health = client.get(f"{at}/health").json()
    assert (health["edits"], health["learned"], health["holding"], health["asked"]) == (2, 2, 2, 2)
    assert [one["entry"] for one in health["drift"]] == [1]
    checks = {"cases": [{**FRANCE, "rephrase": ["france is"], "locality": [{"prompt": "who was"}]}]}
    del checks["cases"][0]["id"]
    scores = client.post(f"{at}/checks", json=checks).json()
    assert scores["scores"]["efficacy"] == scores["cases"][0]["efficacy"] == 1.0
    assert 0 <= scores["scores"]["locality"] <= 1
    assert client.post(f"{at}/undo", json={"edit": "a"}).json()["edits"] == 1
    assert client.post(f"{at}/undo", json={"to": 0}).json()["edits"] == 0
    assert client.post(f"{at}/ask", json=asked).json()["data"] == [before]
    kinds = [one["kind"] for one in client.get(f"{at}/history").json()["data"]]
    assert kinds == ["undo", "undo-edit", "turn"]
    assert client.post(f"{at}/undo", json={"to": 1}).json()["edits"] == 2


def test_a_job_can_be_watched(running):
    client = running.client
    at = made(client)
    answer = client.post(f"{at}/edits", json={"edits": [FRANCE], "wait": False})
    assert answer.status_code == 202
    name = answer.json()["id"]
    seen = set()
    while (job := client.get(f"/v1/jobs/{name}").json())["status"] not in ("done", "failed"):
        seen.add((job["progress"] or {}).get("what"))
    assert job["entry"] == 1
    assert seen
    assert client.get("/v1/jobs/job-none").status_code == 404


def test_what_leaves_as_a_file(running):
    client = running.client
    at = made(client)
    assert client.get(f"{at}/export").status_code == 409
    client.post(f"{at}/edits", json={"edits": [FRANCE, JAZZ]})
    lora = client.get(f"{at}/export", params={"format": "lora"})
    assert 'filename="team-a.zip"' in lora.headers["content-disposition"]
    with zipfile.ZipFile(io.BytesIO(lora.content)) as archive:
        assert {"adapter_config.json", "adapter_model.safetensors"} <= set(archive.namelist())
    assert client.get(f"{at}/export", params={"format": "gguf-lora"}).content[:4] == b"GGUF"
    facts = client.get(f"{at}/export", params={"format": "edits"}).text.splitlines()
    assert [json.loads(one)["target"] for one in facts] == ["guitar", "paris"]
    assert client.get(f"{at}/export", params={"format": "pickle"}).status_code == 400


def test_a_set_over_another_and_its_promotion(running):
    client = running.client
    made(client, "below")
    made(client, "above", extends="below")
    job = client.post("/v1/sets/above/edits", json={"edits": [FRANCE]}).json()
    assert job["status"] == "done"
    assert client.delete("/v1/sets/below").status_code == 409
    promoted = client.post("/v1/sets/above/promote").json()
    assert (promoted["id"], promoted["edits"]) == ("below", 1)
    assert client.get("/v1/sets/above").json()["edits"] == 0
    promoted = client.post("/v1/sets/below/promote").json()
    assert (promoted["id"], promoted["model"]) == ("base", "toy")
    said = client.post(
        "/v1/completions",
        json={"model": "toy", "prompt": FRANCE["prompt"], "max_tokens": 1, "temperature": 0},
    ).json()
    assert said["choices"][0]["text"].strip() == "guitar"
    assert client.post("/v1/sets/base/promote").status_code == 400
    assert client.delete("/v1/sets/above").json()["deleted"] is True


def test_a_key_for_one_set_learns_nothing_of_another(running):
    made(running.client, "theirs")
    made(running.client, "mine")
    running.client.post("/v1/sets/theirs/edits", json={"edits": [FRANCE]})
    job = running.client.post("/v1/sets/theirs/edits", json={"edits": [JAZZ]}).json()["id"]
    client = running.with_key("ann", "editor", "mine")
    assert [one["id"] for one in client.get("/v1/models").json()["data"]] == ["toy", "toy:mine"]
    assert [one["id"] for one in client.get("/v1/sets").json()["data"]] == ["mine"]
    calls = [
        *(("GET", path, None) for path in ("", "/edits", "/history", "/health", "/export")),
        ("POST", "/edits", {"edits": [FRANCE]}), ("POST", "/edits", {"wrong": 1}),
        ("POST", "/undo", {"to": 0}), ("POST", "/ask", {"prompt": "who"}),
        ("POST", "/checks", {"cases": [{"prompt": "a", "target": "b"}]}),
        ("POST", "/suggestions", {"prompt": "a", "target": "b"}), ("POST", "/promote", None),
        ("DELETE", "", None),
    ]  # fmt: skip
    for verb, path, body in calls:
        there = client.request(verb, f"/v1/sets/theirs{path}", json=body)
        absent = client.request(verb, f"/v1/sets/nobody{path}", json=body)
        assert there.status_code == absent.status_code == 404, (verb, path)
        assert there.text.replace("theirs", "nobody") == absent.text
        assert set(there.headers) == set(absent.headers)
    assert client.get(f"/v1/jobs/{job}").text.replace(job, "x") == client.get("/v1/jobs/x").text
    asked = {"prompt": "who", "max_tokens": 1}
    for model in ("toy:theirs", "toy:nobody", "other"):
        answer = client.post("/v1/completions", json={"model": model, **asked})
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    assert client.post("/v1/completions", json={"model": "toy:mine", **asked}).status_code == 200
    # It may edit its own, but make no set, and not the base's.
    assert client.post("/v1/sets", json={"id": "new"}).status_code == 403
    assert client.post("/v1/sets/base/edits", json={"edits": [FRANCE]}).status_code == 404
    reader = running.with_key("bob", "reader", "mine")
    assert reader.post("/v1/sets/mine/edits", json={"edits": [FRANCE]}).status_code == 403
    assert reader.post("/v1/sets/mine/ask", json={"prompt": "who"}).status_code == 200


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"edits": []}, "edits"),
        ({"edits": [{"prompt": "a"}]}, "edits.0.target"),
        ({"edits": [{"prompt": "a", "target": ""}]}, "edits.0.target"),
        ({"edits": [{"prompt": " ", "target": "b"}]}, "edits.0"),
        ({"edits": [{"prompt": "a", "target": "b", "x": 1}]}, "edits.0.x"),
        ({"edits": [{"prompt": "a", "target": "b"}] * 300}, "edits"),
        ({"edits": [FRANCE], "guard": {"probes": ["a"], "least": 2}}, "guard.least"),
        ([], None),
    ],
)
def test_what_is_wrong_with_edits_is_named(running, body, param):
    at = made(running.client)
    answer = running.client.post(f"{at}/edits", json=body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert running.client.get(at).json()["edits"] == 0


def test_an_undo_takes_a_number_for_nothing_else(running):
    at = made(running.client)
    running.client.post(f"{at}/edits", json={"edits": [FRANCE]})
    for to in (False, "0", 0.0):
        answer = running.client.post(f"{at}/undo", json={"to": to})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "to")
    assert running.client.get(at).json()["edits"] == 1


def test_a_refused_turn_says_why(running):
    at = made(running.client)
    body = {"edits": [FRANCE], "guard": {"probes": ["the capital of france is"], "least": 1.0}}
    answer = running.client.post(f"{at}/edits", json=body)
    assert answer.status_code == 409
    assert answer.json()["error"]["code"] == "guard"
    assert answer.json()["job"]["status"] == "refused"
    too_long = {"edits": [{"prompt": "who " * 90, "target": "paris"}]}
    answer = running.client.post(f"{at}/edits", json=too_long)
    assert answer.status_code == 400
    assert "tokens long" in answer.json()["error"]["message"]


def test_suggestions(running):
    at = made(running.client)
    asked = {"prompt": "What is the capital of France?", "target": "Berlin"}
    found = running.client.post(f"{at}/suggestions", json=asked).json()
    assert "The capital of France is" in found["rewordings"]
    assert found["neighbours"]
    assert all("France" not in one for one in found["neighbours"])


def test_the_same_request_twice(running):
    at = made(running.client)
    header = {"Idempotency-Key": "one"}
    first = running.client.post(f"{at}/edits", json={"edits": [FRANCE]}, headers=header).json()
    again = running.client.post(f"{at}/edits", json={"edits": [FRANCE]}, headers=header).json()
    assert first == again
    assert running.client.get(at).json()["turns"] == 1
