"""How far the work is, where output is no terminal."""

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


def test_a_line_at_first_and_then_every_ten_seconds(capsys):
    lines = lines_of(capsys, 1000, 1.0, 50)
    assert lines[0] == "editing: 0 of 1000"
    assert lines[1] == "editing: 10 of 1000, 10 s, about 990 s left"
    assert len(lines) == 6


def test_every_tenth_of_what_is_quicker(capsys):
    lines = lines_of(capsys, 20, 2.0, 20)
    assert [line.split(",")[0] for line in lines[:3]] == [
        "editing: 0 of 20", "editing: 2 of 20", "editing: 4 of 20"
    ]  # fmt: skip
    assert len(lines) == 11


def test_what_takes_no_time_says_little(capsys):
    assert lines_of(capsys, 1000, 0.0001, 1000) == ["editing: 0 of 1000"]


def test_what_has_no_known_end_says_how_long_it_takes(capsys):
    lines = lines_of(capsys, None, 5.0, 4)
    assert lines == ["editing: begins", "editing: 2, 10 s", "editing: 4, 20 s"]


@pytest.mark.parametrize("quiet", [True, False])
def test_quiet_says_nothing(capsys, quiet):
    with progress_bars(quiet) as bar, bar("editing", 3) as advance:
        advance(3)
    said = capsys.readouterr()
    assert said.out == ""
    assert bool(said.err) is not quiet


def test_a_run_into_a_file_says_how_far_it_is(run_here, base, facts, monkeypatch):
    monkeypatch.setattr(console, "SHORTEST", 0.0)
    arguments = ("edit", base, facts, "--method", "ultraedit", "--lr", 0.05, "--turn-size", 1)
    done = run_here(*arguments)
    assert "editing: 0 of 5" in done.stderr
    assert "editing: 3 of 5" in done.stderr
    assert "Warning" not in done.stderr
    assert run_here(*arguments, "--quiet").stderr == ""
    assert run_here(*arguments, "--json").stderr == ""
