import pytest

from ultraedit.methods.anchored.pace import Pace


def test_passes_that_come_as_far_as_they_should_keep_their_step():
    pace = Pace(0.5)
    assert [pace.next_share(undone) for undone in (100.0, 50.0, 26.0)] == [0.5, 0.5, 0.5]


def test_a_pass_that_falls_short_makes_the_next_one_shorter_and_a_good_one_longer_again():
    pace = Pace(0.5)
    # 80 is 20 of the 50 that were expected; 90 is further away than before.
    assert [pace.next_share(undone) for undone in (100.0, 80.0, 90.0)] == [0.5, 0.25, 0.125]
    # 78 is all of the 11 expected; the step never exceeds the first.
    assert [pace.next_share(undone) for undone in (78.0, 58.0, 29.0)] == [0.25, 0.5, 0.5]


def test_nothing_left_to_do_is_no_reason_for_a_shorter_step():
    pace = Pace(0.5)
    assert [pace.next_share(undone) for undone in (0.0, 4.0)] == [0.5, 0.5]


def test_no_pass_goes_further_than_the_first():
    pace = Pace(0.5)
    assert pace.held_back(4.0) == 1.0
    assert pace.held_back(1.0) == 1.0
    assert pace.held_back(16.0) == pytest.approx(0.5)
    assert pace.held_back(0.0) == 1.0
