"""The command line as a process: output, exit codes, what is and is not touched."""

import json
import os
import signal
import subprocess
import sys
from importlib.metadata import version

import pytest
from transformers import AutoModelForCausalLM

from ultraedit import Editor

ENV = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def run(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "ultraedit", *map(str, arguments)],
        capture_output=True, text=True, env=ENV, **options,
    )  # fmt: skip


def run_json(*arguments):
    done = run(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def edited(base, facts, tmp_path_factory):
    out = tmp_path_factory.mktemp("edited") / "out"
    summary = run_json(
        "edit", base, facts, "--method", "ultraedit", "-o", out, "--turn-size", 2, "--lr", 0.05
    )
    return out, summary


def test_edit_writes_a_model_and_says_what_it_did(edited, records):
    out, summary = edited
    assert (summary["edits"], summary["turns"]) == (5, 3)
    assert summary["learned"] + len(summary["not_learned"]) == 5
    assert set(summary["not_learned"]) <= {record["id"] for record in records}
    assert summary["lr"] == 0.05
    assert summary["modules"] == ["model.layers.2.mlp.down_proj"]
    assert AutoModelForCausalLM.from_pretrained(out)


def test_evaluate_an_edited_model(edited, facts, tmp_path, records):
    out, _ = edited
    text = tmp_path / "text.txt"
    text.write_text("who was the person born in paris\n" * 5)
    report = run_json(
        "evaluate", out, facts, "--generate", "--per-case", tmp_path / "cases.jsonl", "--text", text
    )
    assert report["count"] == 5
    assert set(report["after"]) == {"efficacy", "rephrase", "locality"}
    assert report["before"]["locality"]["agreement"] == 1
    assert (
        report["after"]["efficacy"]["token_accuracy"]
        > report["before"]["efficacy"]["token_accuracy"]
    )
    assert set(report["perplexity"]) == {"before", "after"}
    lines = [json.loads(line) for line in (tmp_path / "cases.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == [record["id"] for record in records]
    assert {"before", "after", "answers"} <= set(lines[0])


def test_evaluate_against_a_named_base_is_the_same(edited, facts, base):
    out, _ = edited
    own, named = run_json("evaluate", out, facts), run_json("evaluate", out, facts, "--base", base)
    assert named["before"] == own["before"]
    assert named["after"] == own["after"]


def test_evaluate_a_plain_model_and_a_sample(base, facts):
    report = run_json("evaluate", base, facts, "--sample", 3)
    assert report["count"] == 3
    assert report["before"] == {}
    assert "agreement" not in report["after"]["locality"]


def test_tables_for_people(run_here, edited, facts):
    out, _ = edited
    done = run_here("evaluate", out, facts)
    assert done.returncode == 0
    assert "efficacy" in done.stdout
    assert "->" in done.stdout
    assert "\x1b[" not in done.stdout, "no colours into a pipe"
    assert "[bold]" not in done.stdout
    assert done.stderr == ""


def test_check_has_an_exit_code(run_here, edited, facts, base, records):
    out, _ = edited
    passed = run_here("check", out, "--probes", facts, "--min-agreement", 0)
    assert passed.returncode == 0
    failed = run_here("check", out, "--probes", facts, "--min-agreement", 1, "--json")
    result = json.loads(failed.stdout)
    assert failed.returncode == (0 if result["agreement"] == 1 else 1)
    assert result["probes"] == 5
    prompts = facts.with_name("prompts.jsonl")
    prompts.write_text("".join(json.dumps({"prompt": r["prompt"]}) + "\n" for r in records))
    moved = run_here("check", out, "--probes", prompts, "--min-agreement", 1, "--json")
    assert moved.returncode == 1, "the edits themselves have moved"
    changed = json.loads(moved.stdout)["changed"]
    assert changed
    assert all(change["before"] != change["after"] for change in changed)
    assert run_here("check", base, "--probes", prompts).returncode == 2
    assert run_here("check", base, "--base", base, "--probes", prompts).returncode == 0


def test_going_on_in_place_and_into_another_folder(edited, facts, tmp_path):
    out, _ = edited
    summary = run_json("edit", out, facts, "-o", tmp_path / "more", "--limit", 2)
    assert summary["edits"] == 2
    assert run_json("inspect", tmp_path / "more")["edited"]["edits"] == 7
    run_json("edit", tmp_path / "more", facts, "-o", tmp_path / "more", "--limit", 1)
    assert run_json("inspect", tmp_path / "more")["edited"]["edits"] == 8


def test_brackets_in_prompts_are_only_brackets(run_here, base, tmp_path):
    path = tmp_path / "facts.jsonl"
    record = {"id": "[/x]", "prompt": "[INST] who [/INST] is", "target": "[bold]paris[/]"}
    path.write_text(json.dumps(record))
    done = run_here("edit", base, path, "-o", tmp_path / "out", "--lr", "1e-9")
    assert done.returncode == 0
    assert "[/x]" in done.stdout
    done = run_here("check", tmp_path / "out", "--probes", path, "--min-agreement", 0)
    assert done.returncode == 0


def test_another_runs_folder_is_not_overwritten(
    run_here, base, edited, facts, monkeypatch, tmp_path
):
    out, _ = edited
    assert run_here("edit", base, facts, "-o", out).returncode == 2
    monkeypatch.chdir(tmp_path)
    assert run_here("edit", "demo", facts, "-o", "demo", "--lr", 0.01).returncode == 0
    again = run_here("edit", "demo", facts, "-o", "demo", "--lr", 0.01)
    assert again.returncode == 2
    assert "edited model" in again.stderr


def test_a_folder_that_a_killed_run_left_can_be_used(run_here, base, facts, tmp_path):
    (tmp_path / "out" / "ultraedit").mkdir(parents=True)
    (tmp_path / "out" / "ultraedit" / "lock").touch()
    assert run_here("edit", base, facts, "-o", tmp_path / "out", "--lr", 0.01).returncode == 0


def test_turns_before_a_refused_one_are_saved(run_here, base, facts, tmp_path, monkeypatch):
    from ultraedit import Editor, TurnRefusedError

    whole_turn = Editor.edit

    def refused(self, edits):
        if self.turns == 2:
            raise TurnRefusedError("not finite")
        return whole_turn(self, edits)

    monkeypatch.setattr(Editor, "edit", refused)
    out = tmp_path / "out"
    done = run_here("edit", base, facts, "-o", out, "--turn-size", 1, "--lr", 0.001)
    assert done.returncode == 1
    assert "2 edits before it are saved" in done.stderr
    monkeypatch.undo()
    assert Editor.load(out).edits == 2


def test_without_out_nothing_is_written_and_the_cases_are_evaluated(base, facts, tmp_path):
    done = run("edit", base, facts, "--json", cwd=tmp_path)
    assert done.returncode == 0
    assert json.loads(done.stdout)["report"]["count"] == 5
    assert list(tmp_path.iterdir()) == []


def test_dry_run_reads_everything_and_changes_nothing(base, facts, tmp_path):
    summary = run_json("edit", base, facts, "-o", tmp_path / "out", "--dry-run")
    assert summary["dry_run"] is True
    assert summary["edits"] == 5
    assert summary["memory"]["weights"] > 0
    assert not (tmp_path / "out").exists()


def test_contradictions_are_counted_and_named(run_here, base, tmp_path):
    path = tmp_path / "facts.jsonl"
    path.write_text(
        '{"prompt": "who is", "target": "paris"}\n{"prompt": "who is", "target": "city"}\n'
    )
    done = run_here("edit", base, path, "--dry-run")
    assert done.returncode == 0
    assert "1" in done.stderr
    assert "2" in done.stderr
    assert "contradict" in done.stderr


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"prompt": "a", "target": "b"}\n{"prompt": "a"}\n', ["facts.jsonl", "record 2"]),
        ('{"prompt": "a", "target": ""}\n', ["record 1", "target"]),
        ('{"prompt": "a", "target": "b"\n', ["record 1"]),
        ("", ["facts.jsonl"]),
        ('{"prompt": "' + "a b " * 99 + '", "target": "b"}\n', ["tokens"]),
    ],
)
def test_bad_records_are_one_line_and_exit_code_2(run_here, base, tmp_path, content, words):
    path = tmp_path / "facts.jsonl"
    path.write_text(content)
    done = run_here("edit", base, path, "-o", tmp_path / "out")
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
    assert all(word in done.stderr for word in words), done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["edit", "BASE", "missing.jsonl"],
        ["edit", "missing/model", "FACTS"],
        ["edit", "./nowhere", "FACTS"],
        ["edit", "BASE", "FACTS", "--method", "magic"],
        ["edit", "BASE", "FACTS", "--modules", "model.layers.77"],
        ["edit", "BASE", "FACTS", "--lr", "fast"],
        ["edit", "BASE", "FACTS", "--lr", "-3"],
        ["edit", "BASE", "FACTS", "--turn-size", "0"],
        ["edit", "BASE", "FACTS", "--dtype", "int3"],
        ["edit", "BASE", "FACTS", "--device", "toaster"],
        ["edit", "BASE", "FACTS", "--chat"],
        ["edit", "BASE", "FACTS", "-o", "BASE"],
        ["edit", "BASE", "FACTS", "-o", "FACTS"],
        ["evaluate", "BASE", "FACTS", "--text", "missing.txt"],
        ["check", "missing", "--probes", "FACTS"],
        ["inspect", "missing/model"],
        ["frobnicate"],
    ],
)  # fmt: skip
def test_bad_usage_is_exit_code_2_without_a_traceback(
    run_here, base, facts, arguments, tmp_path, monkeypatch
):
    places = {"BASE": base, "FACTS": facts}
    before = sorted(path.name for path in base.iterdir())
    monkeypatch.chdir(tmp_path)
    done = run_here(*(places.get(a, a) for a in arguments))
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.strip()
    assert sorted(path.name for path in base.iterdir()) == before


def test_a_second_process_is_turned_away(edited, facts):
    from ultraedit import storage

    out, _ = edited
    with storage.lock(out):
        done = run("edit", out, facts, "-o", out)
    assert done.returncode == 1
    assert "in use" in done.stderr


def test_an_interrupt_ends_after_the_turn_and_saves(run_here, base, facts, tmp_path, monkeypatch):
    from ultraedit import Editor

    whole_turn = Editor.edit

    def interrupted_turn(self, edits):
        if self.turns == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return whole_turn(self, edits)

    monkeypatch.setattr(Editor, "edit", interrupted_turn)
    out = tmp_path / "out"
    handler = signal.getsignal(signal.SIGINT)
    done = run_here("edit", base, facts, "-o", out, "--turn-size", 1, "--lr", 0.001, "--json")
    assert done.returncode == 130
    assert signal.getsignal(signal.SIGINT) is handler
    summary = json.loads(done.stdout)
    assert summary["interrupted"] is True
    assert summary["edits"] == 2
    monkeypatch.undo()
    assert run_json("inspect", out)["edited"]["edits"] == 2


def test_listings(run_here, base):
    methods = json.loads(run_here("methods", "--json").stdout)
    assert isinstance(methods, list)
    assert "ultraedit" in [method["name"] for method in methods]
    assert len(json.loads(run_here("models", "--json").stdout)["presets"]) == 6
    inspected = json.loads(run_here("inspect", base, "--method", "ultraedit", "--json").stdout)
    assert inspected["modules"] == [
        {"name": "model.layers.2.mlp.down_proj", "inputs": 56, "outputs": 32}
    ]
    assert inspected["memory"]["weights"] == 4 * inspected["parameters"]
    for command in ("methods", "models"):
        assert run_here(command).returncode == 0
    assert run_here("inspect", base).returncode == 0


def test_help_names_every_command_and_is_quick_to_ask():
    done = run("--help")
    assert done.returncode == 0
    for command in ("demo", "edit", "evaluate", "check", "inspect", "methods", "models"):
        assert command in done.stdout
    code = "import sys, ultraedit.cli.app as a; a.build_app(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENV)
    assert done.stdout.strip() == "False", "asking for help should not load torch"


def test_it_says_its_version():
    assert run("--version").stdout == f"ultraedit {version('ultraedit')}\n"


def test_turns_need_not_be_asked_again(json_of, run_here, base, facts, tmp_path):
    options = ("--lr", 0.01, "--turn-size", 2, "--lookahead", 2)
    checked = json_of("edit", base, facts, "-o", tmp_path / "a", *options)
    unchecked = json_of("edit", base, facts, "-o", tmp_path / "b", *options, "--no-check-learned")
    assert checked["learned"] is not None
    assert unchecked["learned"] is None
    assert unchecked["not_learned"] == []
    log = json_of("log", tmp_path / "b")["entries"]
    assert all(entry["learned"] is None for entry in log)
    shown = run_here("log", tmp_path / "b")
    assert shown.returncode == 0
    assert "learned" not in shown.stdout
    assert run_here("diff", tmp_path / "a", tmp_path / "b").returncode == 0


def test_inspect_states_the_peak_on_the_device(json_of, base):
    memory = json_of("inspect", base, "--device", "cpu")["memory"]
    assert memory["peak"] > memory["backup"] + memory["hidden states"] > 0


def test_settings_of_the_method_can_be_given(json_of, run_here, base, facts, tmp_path):
    out = tmp_path / "out"
    notes = tmp_path / "notes.txt"
    notes.write_text("the capital of france is paris\n" * 40)
    given = ("--set", "passes=2", "--set", f"text={notes}")
    json_of("edit", base, facts, "-o", out, "--method", "anchored", *given)
    config = Editor.load(out).method.config
    assert (config.passes, config.text) == (2, str(notes))
    for wrong in ("passes", "=3", "passes=0", "lr=1", "dtype=float16", "nonsense=1"):
        refused = run_here("edit", base, facts, "--method", "anchored", "--set", wrong)
        assert refused.returncode == 2
        assert "Traceback" not in refused.stderr
