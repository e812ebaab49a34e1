"""One edited model on the command line from its first turn to its exports, by every method."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from ultraedit.methods.registry import available

FORMATS = ("checkpoint", "delta", "lora")


def given(settings):
    """Settings as options of `edit`."""
    words = []
    for name, value in settings.items():
        words += ["--lr", value] if name == "lr" else ["--set", f"{name}={value}"]
    return words


def served(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.fixture
def edit(run_here, base, facts, method, quick):
    """`edit(out, *options)`: five facts in turns of two."""
    own = ["--method", method, *given(quick(method)), "--turn-size", 2]
    return lambda out, *options: run_here("edit", base, facts, "-o", out, *own, *options)


def test_interrupted_resumed_listed_undone_and_exported(
    edit, run_here, json_of, base, facts, method, tmp_path, interrupted_after
):
    whole, out = tmp_path / "whole", tmp_path / "out"
    done = edit(whole)
    assert done.returncode == 0, done.stderr
    with interrupted_after(1):
        assert edit(out).returncode == 130
    first = served(out)
    done = edit(out, "--resume")
    assert done.returncode == 0, done.stderr
    expected, found = served(whole), served(out)
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())
    changed = any(not torch.equal(found[name], weight) for name, weight in served(base).items())
    info = available()[method].info
    assert changed == info.changes_weights

    log = json_of("log", out)
    assert (log["turn"], log["edits"]) == (3, 5)
    report = json_of("evaluate", out, facts)
    assert report["after"].keys() == {"efficacy", "rephrase", "locality"}
    assert run_here("log", out, "--verify").returncode == 0

    for name in FORMATS:
        target = tmp_path / name
        done = run_here("export", out, "--format", name, "-o", target)
        assert (done.returncode == 0) == (name in info.exports), done.stderr
        assert done.returncode == 0 or method in done.stderr
    if "delta" in info.exports:
        done = run_here("apply", base, tmp_path / "delta", "-o", tmp_path / "applied")
        assert done.returncode == 0, done.stderr
        applied = served(tmp_path / "applied")
        assert all(torch.equal(applied[name], weight) for name, weight in found.items())

    assert json_of("undo", out, "--to", 1)["exact"] is True
    assert all(torch.equal(served(out)[name], weight) for name, weight in first.items())
    done = run_here("undo", out, "--edit", "r0")
    assert (done.returncode == 0) == info.tells_edits_apart, done.stderr
    assert info.tells_edits_apart or f"method {method} cannot tell" in done.stderr


def test_a_dry_run_says_what_it_will_take_and_changes_nothing(edit, method, tmp_path):
    done = edit(tmp_path / "out", "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["disk"]["every save"] > 0
    assert plan["method"] == method
    assert not (tmp_path / "out").exists()
