import pytest
import torch

from ultraedit.core.metric import absorbed, directions, multipliers


def positive(generator, d):
    root = torch.randn(d, 3 * d, generator=generator, dtype=torch.float64)
    return root @ root.T / (3 * d) + 0.1 * torch.eye(d, dtype=torch.float64)


def shift(keys, gradients, inverse, whitening, wanted, ridge):
    found = directions(keys, gradients, inverse, whitening)
    amounts = multipliers(found.kernel, wanted, ridge)
    return found.left.T @ (found.right * amounts.to(found.right)[:, None])


@pytest.mark.parametrize("n", [1, 5, 20])
def test_the_shift_is_the_cheapest_that_changes_every_scalar_as_wanted(generator, n):
    """Against the primal over all weights at once, their price the product of both metrics."""
    d, e, ridge = 9, 6, 0.2
    metric, curvature = positive(generator, d), positive(generator, e)
    keys, gradients = (torch.randn(n, w, generator=generator, dtype=torch.float64) for w in (d, e))
    wanted = torch.randn(n, generator=generator, dtype=torch.float64)
    jacobian = torch.einsum("nd,ne->nde", keys, gradients).reshape(n, -1)
    price = torch.kron(metric, curvature)
    alone = (jacobian @ torch.linalg.inv(price) * jacobian).sum(1)
    weighted = jacobian.T / (ridge * alone)
    expected = torch.linalg.solve(price + weighted @ jacobian, weighted @ wanted).reshape(d, e)
    inverse, whitening = torch.linalg.inv(metric), torch.linalg.inv(curvature)
    found = shift(keys, gradients, inverse, whitening, wanted, ridge)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-8)


def test_the_kernel_says_what_one_row_does_to_another(generator):
    keys, gradients = (torch.randn(4, w, generator=generator, dtype=torch.float64) for w in (7, 5))
    found = directions(keys, gradients, positive(generator, 7), positive(generator, 5))
    for one in range(4):
        weight = torch.outer(found.left[one], found.right[one])
        changes = (gradients * (keys @ weight)).sum(1)
        torch.testing.assert_close(changes, found.kernel[:, one])


def test_float32_is_near(generator):
    inverse, whitening = positive(generator, 40), positive(generator, 9)
    keys, gradients = (torch.randn(60, w, generator=generator) for w in (40, 9))
    wanted = torch.randn(60, generator=generator)
    exact = shift(keys.double(), gradients.double(), inverse, whitening, wanted, 0.03)
    found = shift(keys, gradients, inverse.float(), whitening.float(), wanted, 0.03)
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
    eye = torch.eye(1, dtype=torch.float64)
    found = shift(keys, ones, torch.linalg.inv(metric), eye, ones[:, 0], 0.1)
    torch.testing.assert_close(keys @ found, ones / 1.1)


@pytest.mark.parametrize("nothing", ["keys", "gradients"])
def test_a_row_of_nothing_writes_nothing(nothing):
    rows = {"keys": torch.ones(2, 4), "gradients": torch.ones(2, 3)}
    rows[nothing][0] = 0
    found = directions(rows["keys"], rows["gradients"], torch.eye(4), torch.eye(3))
    amounts = multipliers(found.kernel, torch.ones(2), 0.1)
    assert amounts[0] == 0
    assert amounts[1] == pytest.approx(1 / (1.1 * 12))


def test_what_is_not_finite_shows():
    keys = torch.ones(1, 4)
    keys[0, 1] = float("nan")
    found = directions(keys, torch.ones(1, 3), torch.eye(4), torch.eye(3))
    assert multipliers(found.kernel, torch.ones(1), 0.1).isnan().all()
    with pytest.raises(ValueError, match="not finite"):
        absorbed(torch.eye(4), keys, found.system, 1.0)
