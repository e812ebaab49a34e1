"""Files with records that cannot be used: all named at once, left out where that is wanted."""

import json
import re

import pytest

GOOD = {"id": "a", "prompt": "the capital of france is", "target": "paris", "subject": "france"}
LINES = (
    json.dumps(GOOD),
    json.dumps({"id": "b", "prompt": "who plays jazz", "target": "guitar", "subject": "city"}),
    '{"id": "c", "prompt": ',
    json.dumps({"id": "d", "prompt": "", "target": "guitar", "subject": "city"}),
    json.dumps({"id": "e", "prompt": "who was born", "target": "city"}),
    json.dumps(GOOD | {"id": "f", "prompt": "what is france"}),
)


@pytest.fixture
def mixed(tmp_path):
    path = tmp_path / "mixed.jsonl"
    path.write_text("\n".join(LINES))
    return path


def rome(model, file, *more):
    layer = "model.layers.1.mlp.down_proj"
    return ("edit", model, file, "--method", "rome", "--modules", layer, "--set", "prefixes=0",
            "--set", "samples=64", *more)  # fmt: skip


def test_a_dry_run_lists_every_fault(run_here, base, mixed):
    done = run_here(*rome(base, mixed, "--dry-run"))
    assert done.returncode == 2
    text = " ".join(done.stdout.split())
    assert "4 records cannot be used" in text
    for number, said in (
        (2, "edit b: its subject 'city' is not in its prompt"),
        (3, "malformed JSON"),
        (4, "is empty"),
        (5, "edit e: it has no subject"),
    ):
        assert re.search(rf"record {number}: [^|]*{re.escape(said)}", text), (number, text)
    found = json.loads(run_here(*rome(base, mixed, "--dry-run", "--json")).stdout)
    assert found["faults"] == 4 == sum(found["kinds"].values())
    assert [one["record"] for one in found["first"]] == [2, 3, 4, 5]


def test_twenty_are_shown_and_all_are_counted(run_here, base, tmp_path):
    file = tmp_path / "many.jsonl"
    file.write_text("\n".join([json.dumps(GOOD), *['{"prompt": "p"}'] * 50]))
    done = run_here(*rome(base, file, "--dry-run"))
    assert done.stdout.count("record ") == 20
    assert "... and 30 more" in done.stdout
    assert re.search(r"50 x ", done.stdout)


def test_the_rest_is_edited_and_the_refused_are_kept(run_here, json_of, base, mixed, tmp_path):
    out = tmp_path / "out"
    assert run_here(*rome(base, mixed, "-o", out)).returncode == 2
    assert not out.exists()
    done = json_of(*rome(base, mixed, "-o", out, "--skip-invalid", "--turn-size", 1))
    assert (done["edits"], done["refused"]) == (2, 4)
    kept = [json.loads(line) for line in (tmp_path / "out.refused.jsonl").read_text().splitlines()]
    assert [one["number"] for one in kept] == [2, 3, 4, 5]
    assert [one["record"] for one in kept] == [
        json.loads(LINES[1]), LINES[2], json.loads(LINES[3]), json.loads(LINES[4])
    ]  # fmt: skip
    assert all(one["fault"] for one in kept)


def test_an_interrupted_run_goes_on_without_them(run_here, json_of, base, mixed, tmp_path):
    out = tmp_path / "out"
    arguments = rome(base, mixed, "-o", out, "--skip-invalid", "--turn-size", 1)
    assert json_of(*arguments, "--limit", 3)["edits"] == 1
    again = json_of(*arguments, "--resume")
    assert (again["resumed_at"], again["edits"]) == (1, 1)


def test_a_file_of_faults_only_is_refused(run_here, base, tmp_path):
    file = tmp_path / "none.jsonl"
    file.write_text(LINES[1])
    done = run_here(*rome(base, file, "-o", tmp_path / "out", "--skip-invalid"))
    assert done.returncode == 2
    assert "no record can be used" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", ["rome", "memit"])
def test_at_the_last_token_no_subject_is_needed(run_here, json_of, base, tmp_path, method):
    file = tmp_path / "bare.jsonl"
    file.write_text("\n".join((LINES[0], LINES[4])))
    arguments = rome(base, file, "--method", method)
    assert run_here(*arguments).returncode == 2
    done = json_of(*arguments, "--set", "fact_token=last", "--no-evaluate")
    assert done["edits"] == 2


def test_what_is_not_read_is_named_in_one_line(run_here, base, tmp_path):
    file = tmp_path / "extra.jsonl"
    file.write_text(json.dumps(GOOD | {"hop_question": "where is paris"}) + "\n" + LINES[0])
    done = run_here("edit", base, file, "--method", "ultraedit", "--lr", 0.05, "--no-evaluate")
    assert done.returncode == 0
    assert done.stderr.count("not read: hop_question") == 1
    assert "UserWarning" not in done.stderr
