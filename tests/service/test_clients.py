"""The server as clients see it that know only its document, or only OpenAI's API."""

import json
import re
import subprocess
import sys

import pytest
import yaml
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoModelForCausalLM, AutoTokenizer

from ultraedit.ability.isolation import isolated
from ultraedit.editor import Editor
from ultraedit.service.limits import Limits

# What exists is asked for often enough that requests come through to what answers them.
SCHEMATHESIS = """
headers = {{ Authorization = "Bearer {key}" }}
continue-on-failure = true

[generation]
deterministic = true
max-examples = 12
database = "none"
no-shrink = true

# What makes sense does not follow from a schema alone: a text may have too many tokens.
[checks]
positive_data_acceptance.enabled = false

[dictionaries]
sets = {{ values = ["team-a", "leaf", "base"] }}
models = {{ values = ["toy", "toy:team-a"] }}
jobs = {{ values = ["{job}"] }}
small = {{ values = [1, 2] }}

[parameters]
"path.set" = {{ dictionary = "sets", probability = 0.9 }}
"path.job" = {{ dictionary = "jobs", probability = 0.5 }}
"path.model" = {{ dictionary = "models", probability = 0.5 }}
"body.model" = {{ dictionary = "models", probability = 0.9 }}
"body.max_tokens" = {{ dictionary = "small", probability = 0.9 }}
"body.to" = {{ dictionary = "small", probability = 0.9 }}

# Of their fields, some exclude each other: few requests by chance have the right ones.
[[operations]]
include-path-regex = "/(ask|undo|completions)$"
generation.max-examples = 50
"""
QUESTIONS = [
    {"question": "the capital of france is", "options": ["paris", "guitar", "the city"]},
    {"question": "who plays jazz", "options": ["guitar", "the person", "paris was"]},
    {"question": "where was the person born", "options": ["in the city", "in paris", "who"]},
]
CHOICE = {
    "task": "choice",
    "output_type": "multiple_choice",
    "doc_to_text": "{{question}}",
    "doc_to_choice": "{{options}}",
    "doc_to_target": 0,
    "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
}
ANSWER = {
    "task": "answer",
    "output_type": "generate_until",
    "doc_to_text": "{{question}}",
    "doc_to_target": "{{options[0]}}",
    "generation_kwargs": {"until": ["\n", "is"], "max_gen_toks": 12, "do_sample": False},
    "metric_list": [{"metric": "exact_match"}, {"metric": "bleu"}],
}


def test_every_answer_is_as_documented(service_of, started, tmp_path):
    service = service_of(limits=Limits(requests_per_minute=10**6, failures_per_minute=10**6))
    with started(service) as running:
        for made in ({"id": "team-a"}, {"id": "heir", "extends": "team-a"}, {"id": "leaf"}):
            running.client.post("/v1/sets", json=made)
        edits = {"edits": [{"prompt": "who plays jazz", "target": "paris"}]}
        job = running.client.post("/v1/sets/team-a/edits", json=edits).json()["id"]
        config = tmp_path / "schemathesis.toml"
        config.write_text(SCHEMATHESIS.format(key=running.key, job=job))
        done = subprocess.run(
            [
                sys.executable, "-m", "schemathesis.cli", "--config-file", config,
                "run", f"{running.url}/openapi.json",
            ],
            capture_output=True, text=True, cwd=tmp_path,
        )  # fmt: skip
        counts = running.client.get("/metrics").text.replace(":path}", "}")
        document = running.client.get("/openapi.json")
    print(done.stdout, done.stderr)
    assert done.returncode == 0
    # Every path was asked for something that it could do.
    answered = re.findall(r'requests_total{route="(.*?)",status="20[0-2]"', counts)
    assert set(document.json()["paths"]) <= {*answered}
    assert "HTTPValidationError" not in document.text


@pytest.fixture
def tasks(tmp_path):
    """A folder with two tasks for lm-eval."""
    data = tmp_path / "questions.jsonl"
    data.write_text("".join(json.dumps(one) + "\n" for one in QUESTIONS))
    where = {
        "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test", "target_delimiter": " ",
    }  # fmt: skip
    folder = tmp_path / "tasks"
    folder.mkdir()
    for task in (CHOICE, ANSWER):
        (folder / f"{task['task']}.yaml").write_text(yaml.safe_dump({**task, **where}))
    return TaskManager(include_path=str(folder), include_defaults=False)


def scored(tasks, model, arguments=None):
    """What lm-eval makes of a model: scores, and what it says to every question."""
    with isolated():
        found = simple_evaluate(
            model=model, model_args=arguments, tasks=["choice", "answer"], task_manager=tasks,
            bootstrap_iters=0, log_samples=True,
        )  # fmt: skip
    scores = {
        (task, metric): value
        for task, row in found["results"].items()
        for metric, value in row.items()
        if isinstance(value, float)
    }
    said = {
        task: [said for one in samples for (said,) in one["resps"]]
        for task, samples in found["samples"].items()
    }
    return scores, said


@pytest.mark.parametrize(
    ("name", "at_once"),
    [
        ("base", {"batch_size": 1}),
        ("team-a", {"batch_size": 4}),
        ("team-a", {"num_concurrent": 4}),
    ],
)
def test_lm_eval_finds_what_it_finds_in_the_model_itself(
    running, folder, tasks, monkeypatch, name, at_once
):
    model = AutoModelForCausalLM.from_pretrained(folder)
    if name != "base":
        running.client.post("/v1/sets", json={"id": name})
        edits = [{"prompt": QUESTIONS[1]["question"], "target": "guitar"}]
        done = running.client.post(f"/v1/sets/{name}/edits", json={"edits": edits})
        assert done.json()["results"][0]["learned"]
        model = Editor.load(running.service.sets.get(name).out).model
    monkeypatch.setenv("OPENAI_API_KEY", running.key)
    arguments = {
        "model": running.client.get(f"/v1/sets/{name}").json()["model"],
        "base_url": f"{running.url}/v1/completions", "tokenizer": str(folder),
        "tokenizer_backend": "huggingface", "add_bos_token": True, "max_length": 64,
        "max_retries": 1, **at_once,
    }  # fmt: skip
    scores, said = scored(tasks, "local-completions", arguments)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    own_scores, own_said = scored(tasks, HFLM(pretrained=model, tokenizer=tokenizer))
    assert scores == own_scores
    assert said["answer"] == own_said["answer"]
    # Was the set asked, not its base?
    assert said["answer"][1].startswith(" guitar") == (name != "base")
    # An overlay may miss a thousandth of what the edits changed.
    near = 1e-5 if name == "base" else 1e-3
    for (likely, is_greedy), own in zip(said["choice"], own_said["choice"], strict=True):
        assert (pytest.approx(likely, rel=near), is_greedy) == own
