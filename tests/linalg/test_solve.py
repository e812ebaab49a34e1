import pytest
import torch

from ultraedit.linalg.solve import ridge_rows, values


@pytest.mark.parametrize(
    ("n", "d", "e"), [(5, 20, 7), (20, 5, 7), (8, 8, 3), (1, 9, 4), (300, 40, 6)]
)
@pytest.mark.parametrize("ridge", [1.0, 0.01, 40.0])
def test_both_sides_give_the_ridge_solution(n, d, e, ridge, generator):
    h = torch.randn(n, d, generator=generator)
    v = torch.randn(n, e, generator=generator)
    hd, vd = h.double(), v.double()
    normal = hd.T @ hd + ridge * torch.eye(d, dtype=torch.float64)
    expected = torch.linalg.solve(normal, hd.T @ vd)
    shift = hd.T @ ridge_rows(h, v, ridge).double()
    # With n > d the float32 rows cancel out directions outside the keys, a / ridge large.
    assert (shift - expected).norm() / expected.norm() < 1e-5 * max(1, 1 / ridge)


def test_it_minimises_the_ridge_objective(generator):
    h = torch.randn(12, 30, generator=generator, dtype=torch.float64)
    v = torch.randn(12, 4, generator=generator, dtype=torch.float64)
    w = (h.T @ ridge_rows(h, v)).requires_grad_()
    ((h @ w - v).square().sum() + w.square().sum()).backward()
    assert w.grad.abs().max() < 1e-9


def test_rows_of_hidden_states_with_one_large_direction(generator):
    # Real hidden states: a common direction a thousand times the rest.
    h = torch.randn(60, 200, generator=generator) + 300 * torch.ones(200)
    v = torch.randn(60, 5, generator=generator)
    hd = h.double()
    expected = hd.T @ torch.linalg.solve(hd @ hd.T + torch.eye(60), v.double())
    shift = h.double().T @ ridge_rows(h, v).double()
    assert (shift - expected).norm() / expected.norm() < 1e-4


def test_non_finite_inputs_are_not_hidden():
    h = torch.randn(4, 8)
    h[1, 2] = float("nan")
    assert not torch.isfinite(ridge_rows(h, torch.randn(4, 3))).all()


def test_values_row_by_row(generator):
    h = torch.randn(6, 10, generator=generator)
    g = torch.randn(6, 3, generator=generator)
    v = values(h, g, 0.25)
    for row in range(6):
        expected = -0.25 * float((h[row] ** 2).sum()) * g[row]
        torch.testing.assert_close(v[row], expected)
