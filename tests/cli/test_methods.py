"""What the command line says of methods, and one that routes from its folder."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
from transformers import AutoModelForCausalLM

from small_methods import ScaledGradient


def run(*arguments):
    command = [sys.executable, "-m", "ultraedit", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def run_json(*arguments):
    done = run(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_methods_lists_all_six_with_what_they_need():
    rows = {row["name"]: row for row in json.loads(run("methods", "--json").stdout)}
    assert {"anchored", "ft", "memit", "rome", "ultraedit", "wise"} <= rows.keys()
    assert [n for n, row in rows.items() if row["needs_subject"]] == ["memit", "rome"]
    assert not rows["wise"]["changes_weights"]
    assert rows["wise"]["exports"] == []
    assert rows["ft"]["also_at_once"]
    assert rows["memit"]["undo"] == ["turn", "edit"]
    assert rows["wise"]["undo"] == ["turn"]


def test_a_record_that_does_not_name_its_subject_is_named(tmp_path):
    path = tmp_path / "facts.jsonl"
    record = {"prompt": "Who runs Adobe?", "target": "Tim Cook", "id": "a"}
    path.write_text(
        json.dumps(record | {"subject": "Adobe"})
        + "\n"
        + json.dumps(record | {"subject": "BP", "id": "b"})
        + "\n"
    )
    done = run("edit", "demo", path, "--method", "memit", "--dry-run")
    assert done.returncode == 2
    assert "record 2: edit b: its subject 'BP' is not in its prompt 'Who runs Adobe?'" in " ".join(
        done.stdout.split()
    )
    done = run("edit", "demo", path, "--method", "memit")
    assert done.returncode == 2
    assert done.stderr.strip() == (
        f"error: {path}: edit b: its subject 'BP' is not in its prompt 'Who runs Adobe?'"
    )


def test_a_module_that_is_no_linear_map_is_named(tmp_path):
    path = tmp_path / "facts.jsonl"
    path.write_text('{"prompt": "Who runs Adobe?", "target": "Tim Cook"}\n')
    done = run("edit", "demo", path, "--modules", "model.norm", "--dry-run")
    assert done.returncode == 2
    assert done.stderr.strip().startswith("error: model.norm is a LlamaRMSNorm")


def test_what_wise_edited_is_routed_from_the_folder_too(base, facts, tmp_path):
    out = tmp_path / "out"
    made = run_json(
        "edit", base, facts, "--method", "wise", "-o", out, "--turn-size", 2, "--set", "steps=40",
        "--set", "share=1.0", "--evaluate",
    )  # fmt: skip
    found = run_json("evaluate", out, facts, "--generate")
    for kind, scores in made["report"]["after"].items():
        for metric, value in scores.items():
            assert found["after"][kind][metric] == pytest.approx(value), (kind, metric)
    assert 0 <= found["after"]["efficacy"]["routed"] <= 1
    assert "routed" not in found["before"]["efficacy"]
    assert "not in these weights" in (out / "WARNING.md").read_text()
    plain, own = (AutoModelForCausalLM.from_pretrained(folder) for folder in (out, base))
    assert all(a.equal(b) for a, b in zip(plain.parameters(), own.parameters(), strict=True))
    shown = run("evaluate", out, facts)
    assert "routed" in shown.stdout
    back = run_json("undo", out, "--to", 0)
    assert back["to"] == 0
    assert "routed" not in run_json("evaluate", out, facts)["after"]["efficacy"]
    refused = run("export", out, "--format", "delta", "-o", tmp_path / "delta")
    assert refused.returncode == 2
    assert "in no form" in refused.stderr


def test_a_method_that_needs_no_training_says_so(run_here, base, facts, tmp_path):
    done = run_here("train", "ft", base, facts, "-o", tmp_path / "trained.safetensors")
    assert done.returncode == 2
    assert "method ft needs no training" in done.stderr
    assert not (tmp_path / "trained.safetensors").exists()


def test_a_method_is_trained_and_edits(run_here, base, facts, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "ultraedit.methods.registry.entry_points",
        lambda group: [SimpleNamespace(load=lambda: ScaledGradient)],
    )
    trained, out = tmp_path / "trained.safetensors", tmp_path / "out"
    edit = ("edit", base, facts, "--method", "scaled_gradient", "-o", out)
    done = run_here(*edit)
    assert done.returncode == 2
    assert "`ultraedit train scaled_gradient`" in done.stderr
    done = run_here("train", "scaled_gradient", base, facts, "-o", trained, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["method"] == "scaled_gradient"
    done = run_here(*edit, "--trained", trained)
    assert done.returncode == 0, done.stderr
    done = run_here(*edit, "--trained", trained, "--resume")
    assert done.returncode == 0, done.stderr
    done = run_here(*edit, "--trained", facts, "--resume")
    assert done.returncode == 2
    assert "no file that `ultraedit train` wrote" in done.stderr
