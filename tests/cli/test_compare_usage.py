"""`ultraedit compare`: what it shows while it runs, and how it refuses what it cannot use."""

import os
from contextlib import contextmanager

import pytest

from ultraedit.cli.compare import _watched
from ultraedit.comparison.compare import Event
from ultraedit.comparison.plan import Run


def test_a_run_and_its_parts_have_bars_of_their_own(monkeypatch):
    drawn = []

    @contextmanager
    def progress_bars(quiet):
        @contextmanager
        def bar(label, total):
            drawn.append([label, total, 0])
            mine = drawn[-1]

            def advance(steps):
                mine[2] += steps

            yield advance
            mine.append("away")

        yield bar

    monkeypatch.setattr("ultraedit.cli.console.progress_bars", progress_bars)
    rome, ft = Run("rome", "rome"), Run("ft", "ft")
    with _watched(5, False) as on_progress:
        on_progress(Event(rome, "begins"))
        for done in (0, 4, 9):
            on_progress(Event(rome, "keys", done, 9))
        assert drawn[1:] == [["keys", 9, 9, "away"]]
        on_progress(Event(rome, "keys", 0, 9))
        on_progress(Event(rome, "edits", 3))
        on_progress(Event(rome, "edits", 2))
        on_progress(Event(rome, "done"))
        assert drawn == [["rome", 10, 5, "away"], ["keys", 9, 9, "away"], ["keys", 9, 0, "away"]]
        on_progress(Event(ft, "begins"))
        on_progress(Event(ft, "cases", 1))
    assert drawn[3:] == [["ft", 10, 1, "away"]]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--methods", "magic"], "magic"),
        (["--methods", "ft,"], "no method ''"),
        (["--set", "ft.pace=1"], "pace"),
        (["--set", "ultraedit.lr=0.1"], "not compared"),
        (["--set", "lr=1"], "METHOD.NAME=VALUE"),
        (["--set", "ft"], "METHOD.NAME=VALUE"),
        (["--set", "ft.lr"], "NAME=VALUE"),
        (["--set", "ft.modules=nowhere"], "nowhere"),
        (["--device", "toaster"], "toaster"),
        (["--text", "missing.txt"], "missing.txt"),
        (["-o", "FACTS"], "is a file"),
        (["-o", "BASE"], "no comparison"),
    ],
)
def test_bad_usage_is_one_line_before_anything_runs(
    run_here, base, facts, tmp_path, change, words, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    places = {"FACTS": facts, "BASE": base}
    command = ["compare", base, facts, "--methods", "ft", "-o", "out"]
    done = run_here(*command, *(places.get(one, one) for one in change))
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_broken_record_is_named(run_here, base, tmp_path):
    path = tmp_path / "facts.jsonl"
    path.write_text('{"prompt": "a", "target": "b"}\n{"prompt": "a"}\n')
    done = run_here("compare", base, path, "--methods", "ft", "-o", tmp_path / "out")
    assert done.returncode == 2
    assert "facts.jsonl: record 2" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_written_is_one_line(run_here, base, facts, tmp_path):
    (tmp_path / "file").write_text("")
    done = run_here("compare", base, facts, "--methods", "ft", "-o", tmp_path / "file" / "out")
    assert done.returncode == 1
    assert done.stderr.startswith("error: cannot write")
    assert os.listdir(tmp_path) == ["file"]
