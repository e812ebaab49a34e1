"""How far the work is, where output is no terminal."""

import time

import pytest

from ultraedit.cli import console
from ultraedit.cli.console import progress_bars, progress_lines


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def lines_of(capsys, total, seconds, steps):
    clock = Clock()
    with progress_lines("editing", total, clock) as advance:
        for _ in range(steps):
            clock.now += seconds
            advance(1)
    return capsys.readouterr().err.splitlines()


def test_a_line_at_every_tenth(capsys):
    lines = lines_of(capsys, 20, 2.0, 20)
    assert lines[0] == "editing: 2 of 20, 4 s, about 36 s left"
    assert [line.split(",")[0] for line in lines] == [
        f"editing: {n} of 20" for n in range(2, 21, 2)
    ]


@pytest.mark.parametrize("total", [1000, None])
def test_what_takes_no_time_says_nothing(capsys, total):
    assert lines_of(capsys, total, 0.0001, 1000) == []


@pytest.mark.parametrize(
    ("total", "said"), [(3, "editing: 1 of 3, 0 s"), (None, "editing: 1, 0 s")]
)
def test_a_step_that_takes_long_is_not_silent(capsys, monkeypatch, total, said):
    monkeypatch.setattr(console, "LONGEST", 0.05)
    with progress_lines("editing", total) as advance:
        advance(1)
        time.sleep(0.5)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) > 1
    assert lines[0].startswith(said)


@pytest.mark.parametrize("quiet", [True, False])
def test_quiet_says_nothing(capsys, monkeypatch, quiet):
    monkeypatch.setattr(console, "SHORTEST", 0.0)
    with progress_bars(quiet) as bar, bar("editing", 3) as advance:
        advance(3)
    said = capsys.readouterr()
    assert said.out == ""
    assert bool(said.err) is not quiet


def test_a_run_into_a_file_says_how_far_it_is(run_here, base, facts, monkeypatch):
    monkeypatch.setattr(console, "SHORTEST", 0.0)
    arguments = ("edit", base, facts, "--method", "ultraedit", "--lr", 0.05, "--turn-size", 1)
    done = run_here(*arguments)
    assert "editing: 3 of 5" in done.stderr
    assert "Warning" not in done.stderr
    assert run_here(*arguments, "--quiet").stderr == ""
    assert run_here(*arguments, "--json").stderr == ""
