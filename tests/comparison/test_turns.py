import pytest

from ultraedit.comparison.turns import TurnLog, TurnRecord


def turn(edits, seconds=1.0):
    return TurnRecord(edits, edits, 1, seconds, 10, 5, 3)


@pytest.fixture
def log(tmp_path):
    log = TurnLog(tmp_path / "run" / "turns.jsonl")
    assert log.rewind(0)
    for number in range(4):
        log.append(turn(2, float(number)))
    log.sync()
    return log


def test_turns_are_read_again(log):
    assert TurnLog(log.path).turns == log.turns == [turn(2, float(n)) for n in range(4)]


def test_turns_that_no_model_holds_are_dropped(log):
    assert log.rewind(4)
    assert [one.seconds for one in TurnLog(log.path).turns] == [0.0, 1.0]
    log.append(turn(2, 9.0))
    assert [one.seconds for one in TurnLog(log.path).turns] == [0.0, 1.0, 9.0]


@pytest.mark.parametrize("edits", [3, 9])
def test_turns_that_do_not_fit_the_model_are_told(log, edits):
    assert not log.rewind(edits)
    assert len(TurnLog(log.path).turns) == 4, "nothing is thrown away yet"


def test_a_line_that_a_kill_cut_off_does_not_count(log):
    whole = log.path.read_text()
    log.path.write_text(whole[:-9])
    again = TurnLog(log.path)
    assert len(again.turns) == 3
    assert again.rewind(6)
    again.append(turn(2))
    assert len(TurnLog(log.path).turns) == 4
