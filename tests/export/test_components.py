"""Rank-one parts from factors and from the whole matrix, against a direct decomposition."""

import pytest
import torch

from ultraedit.export.components import of_dense, of_factors
from ultraedit.export.difference import Difference
from ultraedit.export.history import stacked
from ultraedit.export.lora import decompose, sufficient_rank
from ultraedit.linalg.shift import Dense, LowRank

SHAPES = [(24, 40), (40, 24), (32, 32)]


def product(components, rank=None):
    held = components if rank is None else components.first(rank)
    return held.inputs.double().T @ held.outputs.double()


def factors(generator, n, d, e):
    """Rows of unequal weight, so that the singular values are apart."""
    weight = 0.6 ** torch.arange(n)[:, None]
    left = torch.randn(n, d, generator=generator) * weight
    return left, torch.randn(n, e, generator=generator)


@pytest.mark.parametrize(("d", "e"), SHAPES)
@pytest.mark.parametrize("n", [1, 5, 17])
def test_factors_and_the_whole_matrix_give_the_same_parts(generator, n, d, e):
    left, right = factors(generator, n, d, e)
    whole = left.double().T @ right.double()
    u, values, vh = torch.linalg.svd(whole, full_matrices=False)
    one, other = of_factors(left, right), of_dense(whole)
    assert len(one) == n
    for rank in range(n + 1):
        best = (u[:, :rank] * values[:rank]) @ vh[:rank]
        for found in (one, other):
            assert product(found, rank).sub(best).norm() <= 1e-6 * whole.norm()
    for found in (one, other):
        assert torch.allclose(found.inputs.norm(dim=1), found.outputs.norm(dim=1), rtol=1e-4)
        assert found.inputs.dtype == found.outputs.dtype == torch.float32


@pytest.mark.parametrize(("d", "e"), SHAPES)
def test_a_matrix_of_full_rank_comes_back_whole(generator, d, e):
    whole = torch.randn(d, e, generator=generator, dtype=torch.float64)
    # Singular values over twelve orders of magnitude, which a Gram matrix cannot resolve.
    u, _, vh = torch.linalg.svd(whole, full_matrices=False)
    values = torch.logspace(0, -12, min(d, e), dtype=torch.float64)
    for matrix in (whole, (u * values) @ vh):
        found = of_dense(matrix)
        assert product(found).sub(matrix).norm() <= 2e-7 * matrix.norm()
        missed = [product(found, rank).sub(matrix).norm() for rank in range(len(found) + 1)]
        kept = torch.linalg.svdvals(matrix).flip(0).square().cumsum(0).sqrt().flip(0)
        for rank, least in enumerate(kept[: len(missed)]):
            assert missed[rank] <= least * (1 + 1e-9) + 2e-7 * matrix.norm()


def test_rows_that_cancel_leave_nothing(generator):
    left, right = factors(generator, 6, 24, 40)
    gone = of_factors(torch.cat([left, left]), torch.cat([right, -right]))
    assert len(gone) == 0
    more_left, more_right = factors(generator, 2, 24, 40)
    rest = of_factors(
        torch.cat([left, more_left, left]), torch.cat([right, 1e-3 * more_right, -right])
    )
    assert len(rest) == 2
    whole = more_left.double().T @ (1e-3 * more_right).double()
    assert product(rest).sub(whole).norm() <= 1e-6 * whole.norm()


@pytest.mark.parametrize("transposed", [True, False])
def test_errors_are_those_of_the_product(generator, transposed):
    left, right = factors(generator, 7, 24, 40)
    whole = (left.T @ right).float()
    weight = whole.T.contiguous() if transposed else whole
    original = torch.randn(weight.shape, generator=generator).bfloat16()
    master = original.float() + weight
    difference = Difference(master, original, transposed)
    true = difference.dense()
    expected = master.double() - original.double()
    assert torch.equal(true, expected.T if transposed else expected)
    parts = of_factors(left, right)
    direct = [float((true - product(parts, r)).norm() / true.norm()) for r in range(8)]
    assert torch.allclose(difference.errors(parts), torch.tensor(direct).double(), atol=1e-7)
    for rank in range(8):
        assert difference.error(parts.first(rank)) == pytest.approx(direct[rank], rel=1e-10)
    for tolerance in (0.5, 0.1, 0.01, 1e-9):
        enough = [r for r in range(8) if direct[r] <= tolerance]
        assert sufficient_rank(difference, parts, tolerance) == (enough[0] if enough else 7)


def test_blocks_change_nothing(generator, monkeypatch):
    left, right = factors(generator, 5, 24, 40)
    difference = Difference(left.T @ right, torch.zeros(24, 40), False)
    parts = of_factors(left, right).first(3)
    before = difference.error(parts), difference.errors(parts)
    monkeypatch.setattr("ultraedit.export.difference.BLOCK", 100)
    assert difference.error(parts) == pytest.approx(before[0], rel=1e-12)
    assert torch.allclose(difference.errors(parts), before[1], atol=1e-12)


def test_no_difference_has_no_parts_and_no_error():
    zero = Difference(torch.ones(6, 8), torch.ones(6, 8), True)
    parts = decompose(zero, None, None)
    assert len(parts) == 0
    assert zero.error(parts.first(1)) == 0
    assert zero.errors(parts).tolist() == [0]
    some = of_dense(torch.ones(8, 6).double())
    assert zero.error(some) == float("inf")


def test_a_history_that_does_not_explain_the_weights_is_not_used(generator):
    left, right = factors(generator, 5, 24, 40)
    master = left.T @ right
    master += torch.randn(24, 40, generator=generator) * 1e-2
    difference = Difference(master, torch.zeros(24, 40), False)
    assert len(decompose(difference, (left, right), None)) == 24
    assert (
        len(decompose(Difference(left.T @ right, torch.zeros(24, 40), False), (left, right), None))
        == 5
    )
    # Not even the whole history keeps to this tolerance; the weights' own parts do.
    noisy = Difference(left.T @ right * (1 + 1e-5), torch.zeros(24, 40), False)
    assert len(decompose(noisy, (left, right), None)) == 5
    assert noisy.error(decompose(noisy, (left, right), 1e-6)) <= 1e-6


def test_factors_of_all_turns_are_stacked_in_order_where_they_are_few(generator):
    def low_rank(n):
        left, right = factors(generator, n, 8, 12)
        return LowRank(left, right, torch.zeros(n, dtype=torch.int64))

    one, two, many = low_rank(2), low_rank(5), low_rank(6)
    limits = {"a": 8, "b": 8, "c": 8, "d": 8}
    turns = [
        {"a": one, "b": one, "c": Dense(torch.zeros(8, 12)), "other": one},
        {"a": two, "b": many, "c": one},
    ]
    found = stacked(iter(turns), limits)
    assert list(found) == ["a"]
    assert torch.equal(found["a"][0], torch.cat([one.left, two.left]))
    assert torch.equal(found["a"][1], torch.cat([one.right, two.right]))
    assert stacked(None, limits) == stacked([], limits) == {}
