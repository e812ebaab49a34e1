"""`ultraedit ability`: tables, JSON, and what is refused before a model is loaded."""

import json

import pytest


@pytest.fixture(scope="module")
def data(tmp_path_factory, records):
    """The records' own answers as choices; another task's file is empty."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "arc_easy.jsonl").write_text(
        "".join(
            json.dumps({"query": r["prompt"], "choices": [r["target"], "jazz"], "gold": 0}) + "\n"
            for r in records
        )
    )
    (folder / "piqa.jsonl").write_text("")
    return folder


def test_both_models_side_by_side(json_of, run_here, out, data):
    found = json_of("ability", out, "--tasks", "arc_easy", "--data", data, "--limit", 4)
    assert found["model"] == found["base"] == str(out)
    assert found["limit"] == 4
    assert found["sources"] == {"arc_easy": str(data / "arc_easy.jsonl")}
    assert [(s["metric"], s["documents"]) for s in found["scores"]] == [("acc", 4), ("acc_norm", 4)]
    for score in found["scores"]:
        assert score["difference"] == pytest.approx(score["after"] - score["before"])
        assert score["interval"][0] <= score["difference"] <= score["interval"][1]
    done = run_here("ability", out, "--tasks", "arc_easy", "--data", data, "--limit", 4)
    assert done.returncode == 0
    assert "95% interval" in done.stdout
    assert str(data) in done.stdout.replace("\n", "")
    assert done.stderr == ""
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_a_named_base_is_the_same(json_of, out, base, data):
    own = json_of("ability", out, "--tasks", "arc_easy", "--data", data)
    named = json_of("ability", out, "--tasks", "arc_easy", "--data", data, "--base", base)
    assert named["scores"] == own["scores"]
    assert named["base"] == str(base)


def test_a_plain_model_has_no_before(json_of, run_here, base, data):
    (first, _) = json_of("ability", base, "--tasks", "arc_easy", "--data", data)["scores"]
    assert first["before"] is None
    assert "difference" not in first
    done = run_here("ability", base, "--tasks", "arc_easy", "--data", data)
    assert "interval" not in done.stdout
    assert "arc_easy" in done.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tasks", ","], "at least one task"),
        (["--tasks", "arc_easy", "--data", "missing-folder"], "is no folder"),
        (["--tasks", "piqa", "--data", "DATA"], "piqa.jsonl: holds no records"),
        (["--tasks", "arc_easy", "--data", "DATA", "--batch-size", "many"], "batch size many"),
        (["--tasks", "arc_easy", "--data", "DATA", "--batch-size", "0"], "batch size 0"),
    ],
)
def test_bad_input_is_one_line(run_here, base, data, options, message):
    done = run_here("ability", base, *[data if o == "DATA" else o for o in options], "--json")
    assert done.returncode == 2
    assert done.stdout == ""
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_missing_extra_is_named(run_here, base, data, monkeypatch):
    monkeypatch.setattr("ultraedit.ability.loading.find_spec", lambda name: None)
    done = run_here("ability", base, "--tasks", "arc_easy", "--data", data)
    assert done.returncode == 2
    assert done.stderr.strip().endswith("pip install 'ultraedit[eval]'")
