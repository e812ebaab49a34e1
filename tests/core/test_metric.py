import pytest
import torch

from ultraedit.core.metric import absorbed, metric_rows


def positive(generator, d):
    root = torch.randn(d, 3 * d, generator=generator, dtype=torch.float64)
    return root @ root.T / (3 * d) + 0.1 * torch.eye(d, dtype=torch.float64)


@pytest.mark.parametrize("n", [1, 5, 40])
def test_the_shift_is_the_weighted_ridge_solution(generator, n):
    """Against the primal: the V that least squares asks for, M as the price of the weights.

    With R = r diag(H M^-1 H^T) as the noise of the rows, the dual equals
    (M + H^T R^-1 H)^-1 H^T R^-1 V.
    """
    d, e, ridge = 12, 7, 0.3
    metric = positive(generator, d)
    keys = torch.randn(n, d, generator=generator, dtype=torch.float64)
    targets = torch.randn(n, e, generator=generator, dtype=torch.float64)
    inverse = torch.linalg.inv(metric)
    left, right, system = metric_rows(keys, targets, inverse, ridge)
    torch.testing.assert_close(system, keys @ inverse @ keys.T)
    noise = ridge * system.diagonal()
    weighted = keys.T / noise
    expected = torch.linalg.solve(metric + weighted @ keys, weighted @ targets)
    torch.testing.assert_close(left.T @ right, expected, rtol=1e-8, atol=1e-9)


def test_float32_is_near(generator):
    metric = positive(generator, 40)
    keys, targets = (torch.randn(60, w, generator=generator) for w in (40, 9))
    inverse = torch.linalg.inv(metric)
    exact = metric_rows(keys.double(), targets.double(), inverse, 0.1)
    found = metric_rows(keys, targets, inverse.float(), 0.1)
    shifts = [left.double().T @ right.double() for left, right, _ in (exact, found)]
    assert (shifts[1] - shifts[0]).norm() / shifts[0].norm() < 1e-4


def test_keys_absorbed_in_two_goes_are_those_in_one(generator):
    metric = positive(generator, 12)
    keys = torch.randn(9, 12, generator=generator, dtype=torch.float64)
    inverse = torch.linalg.inv(metric)
    for part in (keys[:4], keys[4:]):
        left = part @ inverse
        inverse = absorbed(inverse, left, left @ part.T, 0.5)
    expected = torch.linalg.inv(metric + 0.5 * keys.T @ keys)
    torch.testing.assert_close(inverse, expected, rtol=1e-4, atol=1e-5)


def test_rows_are_damped_in_their_own_units(generator):
    """A key a thousand times dearer than the others is written as far as they are."""
    metric = torch.eye(6, dtype=torch.float64)
    metric[0, 0] = 1000
    keys, targets = torch.eye(6, dtype=torch.float64), torch.ones(6, 1, dtype=torch.float64)
    left, right, _ = metric_rows(keys, targets, torch.linalg.inv(metric), 0.1)
    outputs = keys @ left.T @ right
    torch.testing.assert_close(outputs, targets / 1.1)


def test_a_key_of_nothing_writes_nothing(generator):
    keys = torch.zeros(2, 4)
    keys[1, 2] = 1
    left, right, _ = metric_rows(keys, torch.ones(2, 3), torch.eye(4), 0.1)
    assert torch.isfinite(left.T @ right).all()
    assert not (left.T @ right)[[0, 1, 3]].any()


def test_what_is_not_finite_shows(generator):
    keys = torch.ones(1, 4)
    keys[0, 1] = float("nan")
    _, right, system = metric_rows(keys, torch.ones(1, 3), torch.eye(4), 0.1)
    assert right.isnan().all()
    with pytest.raises(ValueError, match="not finite"):
        absorbed(torch.eye(4), keys, system, 1.0)
