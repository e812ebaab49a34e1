"""`log`, `undo` and `diff`."""

import json
import sys

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from ultraedit.storage import Layout, lock, read_manifest


def weights(out):
    return load_file(out / read_manifest(out).edited.name)


def test_the_log_says_who_what_and_whether_it_was_learned(json_of, run_here, out, base, records):
    log = json_of("log", out)
    assert (log["turn"], log["turns"], log["edits"]) == (3, 3, 5)
    assert log["base"]["name"] == str(base)
    assert [row["kind"] for row in log["entries"]] == ["start", "turn", "turn", "turn"]
    assert [edit["id"] for row in log["entries"] for edit in row["edits"]] == [
        record["id"] for record in records
    ]
    turn = log["entries"][1]
    assert turn["author"] == "ada"
    assert turn["time"].endswith("+00:00")
    assert turn["learned"] == sum(edit["learned"] for edit in turn["edits"])
    assert turn["run"]["records"] == 2
    assert all(row["in_effect"] and row["can_return"] for row in log["entries"])
    assert [row["turn"] for row in json_of("log", out, "--last", 2)["entries"]] == [2, 3]
    shown = run_here("log", out, "--edits").stdout
    assert "ada" in shown
    assert "r3" in shown


def test_log_verify_reads_every_file(json_of, run_here, out):
    assert json_of("log", out)["verified_files"] is None
    # Three turns' shifts, the snapshot of the start, and the method's constants.
    assert json_of("log", out, "--verify")["verified_files"] == 5
    for path in (
        Layout(out).history_file(2, "factors"),
        Layout(out).history_file(0, "snapshot"),
        out / read_manifest(out).edited.name,
        Layout(out).internal / read_manifest(out).originals.name,
    ):
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        done = run_here("log", out, "--verify")
        assert done.returncode == 2
        assert path.name in done.stderr
        path.write_bytes(content)
    assert run_here("log", out, "--verify").returncode == 0


def test_undo_to_a_turn_and_back(json_of, run_here, out):
    states = {3: weights(out)}
    undone = json_of("undo", out, "--to", 1)
    assert undone == {"out": str(out), "turn": 4, "to": 1, "turns": 1, "edits": 2, "exact": True}
    states[1] = weights(out)
    loaded = AutoModelForCausalLM.from_pretrained(out).state_dict()
    for name, weight in states[1].items():
        assert not torch.equal(weight, states[3][name])
        assert torch.equal(loaded[name], weight)
    rows = json_of("log", out)["entries"]
    assert [row["in_effect"] for row in rows] == [True, True, False, False, False]
    assert rows[4]["kind"] == "undo"
    done = run_here("undo", out, "--to", 3)
    assert "bit for bit" in done.stdout
    assert all(torch.equal(w, states[3][n]) for n, w in weights(out).items())
    assert json_of("undo", out, "--to", 0)["edits"] == 0


def test_undo_of_one_edit_measures_the_others(json_of, run_here, out, records):
    undone = json_of("undo", out, "--edit", "r2", "--author", "bob")
    assert undone["removed"]["id"] == "r2"
    assert undone["of"] == 2
    assert undone["neighbours"] == 4
    assert undone["edits"] == 4
    assert all(set(one) >= {"id", "before", "after", "learned_after"} for one in undone["changed"])
    rows = json_of("log", out)["entries"]
    assert rows[-1]["kind"] == "undo-edit"
    assert rows[-1]["author"] == "bob"
    assert [edit["in_effect"] for edit in rows[2]["edits"]] == [False, True]
    shown = run_here("undo", out, "--edit", "r3")
    assert "taken out" in shown.stdout
    assert "nearest edits" in shown.stdout


def test_diff_names_the_facts_that_differ(json_of, run_here, out, base, facts):
    none = json_of("diff", out, out)
    assert (none["facts"], none["different"]) == (5, [])
    some = json_of("diff", f"{out}@0", out)
    assert some["facts"] == 5
    assert 0 < len(some["different"]) <= 5
    assert all(
        (one["a"], one["learned_a"]) != (one["b"], one["learned_b"]) for one in some["different"]
    )
    by_model = json_of("diff", base, out)
    assert {one["id"] for one in by_model["different"]} == {one["id"] for one in some["different"]}
    assert json_of("diff", f"{out}@2", f"{out}@2")["facts"] == 4
    assert json_of("diff", base, out, "--facts", facts, "--limit", 2)["facts"] == 2
    assert "differently" in run_here("diff", f"{out}@1", out).stdout
    assert run_here("diff", base, base).returncode == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["undo", "{out}"], "--to TURN or --edit ID"),
        (["undo", "{out}", "--to", "1", "--edit", "r1"], "--to TURN or --edit ID"),
        (["undo", "{out}", "--to", "1", "--turn", "1"], "--turn goes with --edit"),
        (["undo", "{out}", "--to", "9"], "no turn 9"),
        (["undo", "{out}", "--to", "3"], "already"),
        (["undo", "{out}", "--edit", "r9"], "no edit with id r9"),
        (["undo", "{base}", "--to", "1"], "no edited model"),
        (["log", "{base}"], "no edited model"),
        (["log", "{out}x"], "no edited model"),
        (["diff", "{out}@9", "{out}"], "no turn 9"),
        (["diff", "{out}@x", "{out}"], "a turn is a number"),
        (["diff", "{base}@1", "{out}"], "no edited model"),
        (["edit", "{base}", "{facts}", "--resume"], "needs --out"),
        (["edit", "{base}", "{facts}", "-o", "{out}", "--resume", "--turn-size", "3"], "turns of"),
        (["edit", "{base}", "{facts}", "-o", "{out}", "--resume", "--lr", "1"], "lr="),
        (["edit", "{base}", "{facts}", "-o", "{out}x", "--history", "some"], "full, none"),
        (["edit", "{base}", "{facts}", "-o", "{out}"], "--resume"),
    ],
)
def test_bad_usage_is_one_line(run_here, out, base, facts, arguments, words):
    names = {"out": out, "base": base, "facts": facts}
    done = run_here(*(argument.format(**names) for argument in arguments))
    assert done.returncode == 2, done.stdout
    assert words in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_a_second_process_is_turned_away(run_here, out):
    with lock(out):
        done = run_here("undo", out, "--to", 1)
        assert done.returncode == 1
        assert "in use" in done.stderr
        assert run_here("log", out).returncode == 0, "reading needs no lock"


def test_inspect_states_the_cost_of_the_history(json_of, base):
    disk = json_of("inspect", base, "--turn-size", 100, "--method", "ultraedit")["disk"]
    state = 16 * (56 + 32) + 16
    assert disk["of that, history of a turn"] == 500 * (4 * (56 + 32) + 8) + state
    assert disk["every fifty turns: snapshot"] == 4 * 56 * 32 + state


def test_altered_base_shards_are_found(run_here, out, tmp_path):
    shard = next(out.glob("model-base-*"))
    content = bytearray(shard.read_bytes())
    content[-3] ^= 4
    shard.unlink()
    shard.write_bytes(content)
    for arguments in (
        ["log", out, "--verify"],
        ["export", out, "--format", "delta", "-o", tmp_path / "d.safetensors"],
        ["export", out, "--format", "checkpoint", "-o", tmp_path / "c"],
    ):
        done = run_here(*arguments)
        assert done.returncode == 2
        assert "base shards" in done.stderr


def test_a_fact_too_long_to_ask_is_named(run_here, out, tmp_path):
    path = tmp_path / "long.jsonl"
    path.write_text(json.dumps({"prompt": "who", "target": "jazz " * 200}))
    done = run_here("diff", f"{out}@1", out, "--facts", path)
    assert done.returncode == 2
    assert "tokens" in done.stderr


def test_a_damaged_neighbour_is_named(run_here, out):
    path = Layout(out).history_file(3, "factors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 64
    path.write_bytes(content)
    done = run_here("undo", out, "--edit", "r0")
    assert done.returncode == 2
    assert path.name in done.stderr


def test_a_long_list_of_edits_needs_no_table(run_here, out, monkeypatch):
    monkeypatch.setattr(sys.modules["ultraedit.cli.log"], "MOST_IN_A_TABLE", 2)
    shown = run_here("log", out, "--edits").stdout
    assert "\tr3\t" in shown


def test_methods_say_what_can_be_taken_back_and_how_they_leave(json_of):
    (row,) = [row for row in json_of("methods") if row["name"] == "ultraedit"]
    assert row["undo"] == ["turn", "edit"]
    assert row["exports"] == ["checkpoint", "delta", "lora"]
