import math

import pytest

from ultraedit import InputError
from ultraedit.ability.pairing import paired_difference


def test_by_hand():
    before = {"a": 1, "b": 1, "c": 0, "d": 1}
    after = {"d": 0, "c": 1, "b": 1, "a": 0}
    # Differences -1, 0, 1, -1: mean -1/4, squares about it 9/16 + 1/16 + 25/16 + 9/16 = 11/4,
    # variance 11/12 with n - 1, and sqrt(11/12 / 4) = .4787136; times 1.959964.
    found = paired_difference(before, after)
    assert found.mean == -0.25
    assert found.low == pytest.approx(-0.25 - 0.9382614, abs=1e-6)
    assert found.high == pytest.approx(-0.25 + 0.9382614, abs=1e-6)
    assert (found.rose, found.fell) == (1, 2)


def test_what_is_hard_for_both_widens_nothing():
    before = {n: n / 10 for n in range(100)}
    after = {n: n / 10 + (0.5 if n % 2 else 0.4) for n in range(100)}
    found = paired_difference(before, after)
    assert found.mean == pytest.approx(0.45)
    assert found.high - found.low < 0.03
    shuffled = paired_difference(before, {n: after[99 - n] for n in range(100)})
    assert shuffled.mean == pytest.approx(found.mean)
    assert shuffled.high - shuffled.low > 1, "only the same documents may be compared"


def test_confidence_widens():
    before, after = {1: 0, 2: 0, 3: 0}, {1: 0, 2: 1, 3: 1}
    wide, narrow = paired_difference(before, after, 0.99), paired_difference(before, after, 0.5)
    assert wide.low < narrow.low < narrow.mean < narrow.high < wide.high


def test_the_interval_covers_as_often_as_it_says(generator):
    import torch

    covered = 0
    for _ in range(2000):
        before = (torch.rand(60, generator=generator) < 0.6).double().tolist()
        after = [
            (1 - score) if changed else score
            for score, changed in zip(
                before, (torch.rand(60, generator=generator) < 0.3).tolist(), strict=True
            )
        ]
        # A flipped right answer costs one, a flipped wrong one gains one: .3 (.4 - .6) = -.06.
        found = paired_difference(dict(enumerate(before)), dict(enumerate(after)))
        covered += found.low <= -0.06 <= found.high
    assert 0.92 < covered / 2000 < 0.97


def test_one_document_says_nothing_of_others():
    found = paired_difference({1: 0.5}, {1: 1.0})
    assert (found.mean, found.low, found.high) == (0.5, None, None)


def test_no_change_is_no_difference():
    found = paired_difference({1: 0, 2: 1}, {1: 0, 2: 1})
    assert (found.mean, found.low, found.high, found.rose, found.fell) == (0, 0, 0, 0, 0)


def test_values_that_are_not_finite_stay_so():
    assert math.isnan(paired_difference({1: 0, 2: 1}, {1: math.nan, 2: 1}).mean)


@pytest.mark.parametrize(
    ("before", "after", "match"),
    [({}, {}, "no documents"), ({1: 0}, {2: 0}, "2 documents"), ({1: 0}, {}, "1 documents")],
)
def test_other_documents_are_refused(before, after, match):
    with pytest.raises(InputError, match=match):
        paired_difference(before, after)
