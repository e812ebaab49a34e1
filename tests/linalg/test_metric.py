import math

import pytest
import torch

from ultraedit.linalg.metric import absorbed, directions, multipliers


def positive(generator, d):
    root = torch.randn(d, 3 * d, generator=generator, dtype=torch.float64)
    return root @ root.T / (3 * d) + 0.1 * torch.eye(d, dtype=torch.float64)


def unbounded(kernel, wanted, ridge):
    return multipliers(kernel, wanted, ridge, torch.full((len(wanted),), math.inf), sweeps=3000)


def shift(keys, gradients, inverse, wanted, ridge):
    found = directions(keys, gradients, inverse)
    amounts = unbounded(found.kernel, wanted, ridge)
    return found.left.T @ (gradients * amounts.to(gradients)[:, None])


def price(keys, gradients, metric):
    """Rows as a jacobian over all weights at once, and the price of those weights."""
    jacobian = torch.einsum("nd,ne->nde", keys, gradients).reshape(len(keys), -1)
    eye = torch.eye(gradients.shape[1], dtype=torch.float64)
    return jacobian, torch.kron(metric, eye)


@pytest.mark.parametrize("n", [1, 5, 20])
def test_the_shift_is_the_cheapest_that_changes_every_scalar_as_wanted(generator, n):
    """Against the primal over all weights at once, where all multipliers are positive."""
    d, e, ridge = 9, 6, 0.2
    metric = positive(generator, d)
    keys, gradients = (torch.randn(n, w, generator=generator, dtype=torch.float64) for w in (d, e))
    jacobian, cost = price(keys, gradients, metric)
    kernel = jacobian @ torch.linalg.inv(cost) @ jacobian.T
    amounts = torch.rand(n, generator=generator, dtype=torch.float64) + 0.1
    wanted = kernel @ amounts + ridge * kernel.diagonal() * amounts
    weighted = jacobian.T / (ridge * kernel.diagonal())
    expected = torch.linalg.solve(cost + weighted @ jacobian, weighted @ wanted).reshape(d, e)
    found = shift(keys, gradients, torch.linalg.inv(metric), wanted, ridge)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("most", [math.inf, 0.3])
def test_multipliers_are_the_bounded_minimum(generator, most):
    """The conditions of the minimum of a^T (K + r diag K) a / 2 - b^T a with 0 <= a <= most."""
    root = torch.randn(12, 5, generator=generator, dtype=torch.float64)
    kernel, ridge = root @ root.T, 0.1
    wanted = torch.rand(12, generator=generator, dtype=torch.float64)
    limit = torch.full((12,), most, dtype=torch.float64)
    found = multipliers(kernel, wanted, ridge, limit, sweeps=3000)
    slope = kernel @ found + ridge * kernel.diagonal() * found - wanted
    assert (found >= 0).all()
    assert (found <= most).all()
    free = (found > 0) & (found < most)
    assert free.any()
    assert slope[free].abs().max() < 1e-4
    assert (slope[found == 0] > -1e-4).all()
    assert (slope[found == most] < 1e-4).all()
    assert bool((found == 0).any()) or bool((found == most).any()), "no bound is at work"


def test_the_kernel_says_what_one_row_does_to_another(generator):
    keys, gradients = (torch.randn(4, w, generator=generator, dtype=torch.float64) for w in (7, 5))
    found = directions(keys, gradients, positive(generator, 7))
    for one in range(4):
        weight = torch.outer(found.left[one], gradients[one])
        changes = (gradients * (keys @ weight)).sum(1)
        torch.testing.assert_close(changes, found.kernel[:, one])


def test_float32_is_near(generator):
    inverse = positive(generator, 40)
    keys, gradients = (torch.randn(60, w, generator=generator) for w in (40, 9))
    wanted = torch.rand(60, generator=generator)
    exact = shift(keys.double(), gradients.double(), inverse, wanted, 0.03)
    found = shift(keys, gradients, inverse.float(), wanted, 0.03)
    assert (found - exact).norm() / exact.norm() < 1e-4


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
    keys, ones = torch.eye(6, dtype=torch.float64), torch.ones(6, 1, dtype=torch.float64)
    found = shift(keys, ones, torch.linalg.inv(metric), ones[:, 0], 0.1)
    torch.testing.assert_close(keys @ found, ones / 1.1)


@pytest.mark.parametrize("nothing", ["keys", "gradients"])
def test_a_row_of_nothing_writes_nothing(nothing):
    rows = {"keys": torch.ones(2, 4), "gradients": torch.ones(2, 3)}
    rows[nothing][0] = 0
    found = directions(rows["keys"], rows["gradients"], torch.eye(4))
    amounts = unbounded(found.kernel, torch.ones(2), 0.1)
    assert amounts[0] == 0
    assert amounts[1] == pytest.approx(1 / (1.1 * 12))


def test_what_is_not_finite_shows():
    keys = torch.ones(1, 4)
    keys[0, 1] = float("nan")
    found = directions(keys, torch.ones(1, 3), torch.eye(4))
    assert unbounded(found.kernel, torch.ones(1), 0.1).isnan().all()
    with pytest.raises(ValueError, match="not finite"):
        absorbed(torch.eye(4), keys, found.system, 1.0)
