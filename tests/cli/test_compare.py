"""`ultraedit compare`, with every run in a process of its own."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from filelock import FileLock

from ultraedit import Editor
from ultraedit.comparison.folder import held

pytestmark = pytest.mark.xdist_group("compare")  # one comparison serves several tests
SETTINGS = ("--turn-size", "2", "--set", "ultraedit.lr=0.05")
# What a run's process does to its comparison's, or to itself, before a turn; once.
ACTS = """
import os, signal, sys, time
if "ultraedit.comparison" in sys.orig_argv and not os.path.exists({mark!r}):
    from ultraedit import Editor

    plain = Editor.edit

    def edit(self, edits):
        if self.turns == {turn} and not os.path.exists({mark!r}):
            open({mark!r}, "w").close()
            {act}
        return plain(self, edits)

    Editor.edit = edit
"""
KILL_MYSELF = "os.kill(os.getpid(), signal.SIGKILL)"
# The turn goes on when the interrupt was handed on.
INTERRUPT_THE_COMPARISON = """
            before = signal.getsignal(signal.SIGINT)
            os.kill(os.getppid(), signal.SIGINT)
            while signal.getsignal(signal.SIGINT) is before:
                time.sleep(0.01)
"""
# A process that is killed gives its children away before it closes its pipes, so the turn waits
# for word that it has ended.
KILL_THE_COMPARISON = """
            os.kill(os.getppid(), signal.SIGKILL)
            while not os.path.exists({mark!r} + "-and-over"):
                time.sleep(0.01)
"""


@pytest.fixture
def acting(tmp_path, monkeypatch):
    """`acting(turn, act)`: the next run's process does that before that turn."""

    def arm(turn, act):
        folder = tmp_path / "site"
        folder.mkdir()
        mark = str(tmp_path / "acted")
        code = ACTS.format(mark=mark, turn=turn, act=act.strip().format(mark=mark))
        (folder / "sitecustomize.py").write_text(code)
        monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)

    return arm


def run(*arguments):
    command = [sys.executable, "-m", "ultraedit", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope="module")
def compared(base, facts, tmp_path_factory):
    """`ultraedit` and `ft` over five facts in turns of two."""
    out = tmp_path_factory.mktemp("compared") / "out"
    command = (
        "compare", base, facts, "--methods", "ultraedit,ft", "-o", out, *SETTINGS,
        "--set", "ft.epochs=3", "--generate",
    )  # fmt: skip
    return out, command, run(*command, "--json")


def report_of(out, name):
    runs = json.loads((out / "comparison.json").read_text())["runs"]
    return next(one for one in runs if one["name"] == name)


def turns_of(out, name):
    lines = (out / "runs" / name / "turns.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture
def same_scores(compared):
    """Asserts that a run's scores, and those of every case, are those of the whole comparison."""

    def check(out, name):
        whole, _, _ = compared
        found = report_of(out, name)
        assert found["report"]["after"] == {
            kind: {
                metric: value
                for metric, value in scores.items()
                if metric not in ("generation", "ends_earlier")
            }
            for kind, scores in report_of(whole, name)["report"]["after"].items()
        }
        assert found["cost"]["edits"] == 5
        assert found["cost"]["seconds"] == sum(turn["seconds"] for turn in turns_of(out, name))

    return check


def test_it_prints_what_the_summary_holds(compared):
    out, _, done = compared
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout == (out / "comparison.json").read_text()
    runs = json.loads(done.stdout)["runs"]
    assert [(one["name"], one["at_once"], one["cost"]["turns"]) for one in runs] == [
        ("ultraedit", False, 3), ("ft", False, 3), ("ft-at-once", True, 1),
    ]  # fmt: skip
    assert {path.name for path in out.iterdir()} == {
        ".lock", "comparison.json", "comparison.md", "comparison.svg", "runs", "unedited.jsonl",
    }  # fmt: skip
    for one in runs:
        folder = out / "runs" / one["name"]
        names = {path.name for path in folder.iterdir()}
        assert names == {"cases.jsonl", "turns.jsonl", "result.json"}, "the model is gone"
        lines = [json.loads(line) for line in (folder / "cases.jsonl").read_text().splitlines()]
        assert [line["id"] for line in lines] == [f"r{number}" for number in range(5)]
        assert one["cost"]["memory_bytes"] is not None
    page = (out / "comparison.md").read_text()
    assert "ft (all at once)" in page
    assert "ultraedit compare" in page
    assert "--json" not in page


def test_a_method_compared_is_that_method_alone(compared, json_of, base, facts):
    out, _, _ = compared
    summary = json_of(
        "edit", base, facts, "--method", "ultraedit", "--turn-size", 2, "--lr", 0.05, "--evaluate"
    )
    found = report_of(out, "ultraedit")
    after = found["report"]["after"]
    assert summary["report"]["after"] == {
        kind: {
            metric: value
            for metric, value in scores.items()
            if metric not in ("generation", "ends_earlier")
        }
        for kind, scores in after.items()
    }
    assert found["cost"]["learned"] == summary["learned"]
    assert found["editor"]["lr"] == 0.05


def test_again_it_has_nothing_to_do(compared, run_here):
    out, command, _ = compared
    files = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    again = run_here(*command)
    assert again.returncode == 0
    assert again.stderr == ""
    assert files == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert "\x1b[" not in again.stdout, "no colours into a pipe"
    for words in ("unedited", "ultraedit", "ft (all at", "time per", "memory", "comparison.md"):
        assert words in again.stdout


def test_something_else_is_refused_in_one_line(compared, run_here, tmp_path):
    out, command, _ = compared
    shutil.copytree(command[1], tmp_path / "base")
    assert run_here(command[0], tmp_path / "base", *command[2:]).returncode == 0, "it has moved"
    before = (out / "comparison.json").read_bytes()
    for change, words in (
        (("--turn-size", 3), "turns of 2, not of 3"),
        (("--limit", 4), "5 edits"),
        (("--set", "ultraedit.lr=0.06"), "lr=0.05 for ultraedit, not with lr=0.06"),
        (("--no-append-eos",), "--append-eos"),
        (("--dtype", "bfloat16"), "--dtype auto, not bfloat16"),
    ):
        done = run_here(*command, *change)
        assert done.returncode == 2
        assert words in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert (out / "comparison.json").read_bytes() == before


def test_a_second_process_is_turned_away(compared, run_here):
    out, command, _ = compared
    with held(out):
        done = run_here(*command)
    assert done.returncode == 1
    assert "in use by another process" in done.stderr


def test_a_killed_run_is_a_failed_line_and_goes_on_to_the_same_scores(
    run_here, base, facts, tmp_path, acting, same_scores
):
    out = tmp_path / "out"
    acting(2, KILL_MYSELF)
    command = (
        "compare", base, facts, "--methods", "ultraedit", "-o", out, *SETTINGS,
        "--save-seconds", 0, "--keep-models",
    )  # fmt: skip
    done = run_here(*command)
    assert done.returncode == 1
    assert "was killed" in done.stdout
    assert report_of(out, "ultraedit")["state"] == "failed"
    assert "failed: its process was killed" in (out / "comparison.md").read_text()
    before = turns_of(out, "ultraedit")
    assert len(before) == 2
    assert run_here(*command).returncode == 0
    assert turns_of(out, "ultraedit")[:2] == before
    same_scores(out, "ultraedit")
    assert Editor.load(out / "runs" / "ultraedit" / "model").turns == 3


def test_an_interrupt_lets_the_turn_end_and_the_same_command_goes_on(
    run_here, base, facts, tmp_path, acting, same_scores
):
    out = tmp_path / "out"
    acting(1, INTERRUPT_THE_COMPARISON)
    command = ("compare", base, facts, "--methods", "ultraedit", "-o", out, *SETTINGS)
    done = run(*command, "--json")
    assert done.returncode == 130, done.stderr
    assert json.loads(done.stdout)["runs"][0]["state"] == "unfinished"
    before = turns_of(out, "ultraedit")
    assert len(before) == 2
    assert Editor.load(out / "runs" / "ultraedit" / "model").turns == 2
    assert run_here(*command).returncode == 0
    assert turns_of(out, "ultraedit")[:2] == before
    same_scores(out, "ultraedit")


def test_where_the_comparison_is_killed_its_run_saves_and_ends(
    base, facts, tmp_path, acting, same_scores, run_here
):
    out = tmp_path / "out"
    acting(1, KILL_THE_COMPARISON)
    command = ("compare", base, facts, "--methods", "ultraedit", "-o", out, *SETTINGS)
    try:
        assert run(*command).returncode == -9
    finally:
        (tmp_path / "acted-and-over").touch()
    with FileLock(out / "runs" / "ultraedit" / ".lock", timeout=120):
        pass  # held by the run as long as it is at work
    assert Editor.load(out / "runs" / "ultraedit" / "model").turns == 2
    assert run_here(*command).returncode == 0
    same_scores(out, "ultraedit")


def test_a_method_that_fails_leaves_the_others(run_here, base, facts, tmp_path):
    out = tmp_path / "out"
    done = run_here(
        "compare", base, facts, "--methods", "ft,ultraedit", "--no-at-once", "-o", out, *SETTINGS,
        "--set", "ft.modules=model.embed_tokens",
    )  # fmt: skip
    assert done.returncode == 1
    assert [report_of(out, name)["state"] for name in ("ft", "ultraedit")] == ["failed", "done"]
    assert "embed_tokens is a Embedding" in report_of(out, "ft")["reason"]
    assert "ft failed: " in done.stdout
    # It is tried again; what breaks in a way that nobody thought of is a line, too.
    again = run_here(
        "compare", base, facts, "--methods", "ft", "--no-at-once", "-o", out, "--turn-size", 2,
        "--set", "ft.lr=1e38",
    )  # fmt: skip
    assert again.returncode == 1
    assert "errors.txt says more): RuntimeError: " in report_of(out, "ft")["reason"]
    assert "Traceback" in (out / "runs" / "ft" / "errors.txt").read_text()
    assert "Traceback" not in again.stdout + again.stderr
