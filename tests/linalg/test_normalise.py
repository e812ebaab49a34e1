import pytest
import torch

from ultraedit.linalg.normalise import EPSILON, Moments


def test_moments_in_pieces_are_those_of_all_rows(generator):
    rows = torch.randn(57, 5, generator=generator, dtype=torch.float64) * 3 + 100
    moments = Moments.empty(5)
    for piece in rows.split([1, 2, 30, 24]):
        moments = moments.update(piece)
    assert moments.count == 57
    torch.testing.assert_close(moments.mean, rows.mean(0))
    torch.testing.assert_close(moments.std(), rows.std(0, correction=1))


def test_a_large_offset_costs_no_precision(generator):
    rows = torch.randn(400, 3, generator=generator, dtype=torch.float64) + 1e6
    moments = Moments.empty(3)
    for piece in rows.split(7):
        moments = moments.update(piece)
    torch.testing.assert_close(moments.std(), rows.std(0), rtol=1e-8, atol=0)


def test_normalise_is_the_papers_formula(generator):
    rows = torch.randn(40, 6, generator=generator)
    moments = Moments.empty(6).update(rows)
    expected = (rows.double() - rows.double().mean(0)) / (rows.double().std(0) + EPSILON)
    torch.testing.assert_close(moments.normalise(rows), expected.float())


def test_update_leaves_the_old_moments_alone(generator):
    old = Moments.empty(4).update(torch.randn(9, 4, generator=generator))
    mean = old.mean.clone()
    old.update(torch.randn(9, 4, generator=generator) + 5)
    assert old.count == 9
    assert torch.equal(old.mean, mean)


def test_no_rows_change_nothing():
    moments = Moments.empty(3)
    assert moments.update(torch.empty(0, 3)) is moments


def test_one_row_has_no_spread():
    with pytest.raises(ValueError, match="two rows"):
        Moments.empty(2).update(torch.ones(1, 2)).std()


def test_a_constant_column_stays_finite():
    rows = torch.ones(8, 2)
    assert torch.equal(Moments.empty(2).update(rows).normalise(rows), torch.zeros(8, 2))
