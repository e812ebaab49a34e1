"""Least-cost shifts under a metric of the input space, which says what moving a direction costs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ultraedit.linalg.full_precision import full_precision

ROUNDING = 1e-6


@dataclass(frozen=True)
class Directions:
    """What n rows can do to one module, each in the direction that costs least.

    A row changes its scalar (a loss, say) at the rate g^T W^T h. Of all W that reach a wanted
    change, the one of least cost tr(W^T M W) is a sum of M^-1 h g^T over the rows.

    Attributes:
        left: (n, d) H M^-1.
        system: (n, n) H M^-1 H^T.
        kernel: (n, n) float64, H M^-1 H^T times G G^T, entry by entry: by how much one row's
            direction changes another row's scalar.
    """

    left: Tensor
    system: Tensor
    kernel: Tensor


@full_precision()
def directions(keys: Tensor, gradients: Tensor, inverse: Tensor) -> Directions:
    """The rows of one module.

    Args:
        keys: (n, d) inputs H.
        gradients: (n, e) of every row's scalar with respect to the outputs, G.
        inverse: (d, d) M^-1, symmetric and positive.
    """
    left = keys @ inverse
    system = left @ keys.T
    system = (system + system.T) / 2
    likeness = gradients @ gradients.T
    kernel = system.double() * (likeness + likeness.T).double() / 2
    return Directions(left, system, kernel)


def summed(rows: Tensor, group: Tensor) -> Tensor:
    """Rows of one group added up: (n, ...) and (n,) int64 from 0, ascending, to (groups, ...)."""
    # Not index_add_, whose order of summation on CUDA is another in every run.
    lengths = torch.bincount(group)
    return torch.segment_reduce(rows.contiguous(), "sum", lengths=lengths, axis=0)


@full_precision()
def absorbed(inverse: Tensor, left: Tensor, system: Tensor, weight: float) -> Tensor:
    """(M + w H^T H)^-1 from M^-1, by the Woodbury identity.

    Args:
        inverse: (d, d) M^-1.
        left: (n, d) H M^-1.
        system: (n, n) H M^-1 H^T.
        weight: w.

    Returns:
        A new (d, d) tensor in the dtype of `inverse`, symmetric up to rounding.

    Raises:
        ValueError: the rows are not finite.
    """
    inner = system.double().clone()
    # What rounding the rows to float32 may have taken from the smallest eigenvalue.
    inner.diagonal().add_(1 / weight + ROUNDING * inner.diagonal().mean())
    factor, failed = torch.linalg.cholesky_ex(inner)
    if failed:
        raise ValueError("keys that are not finite cannot be remembered")
    half = torch.linalg.solve_triangular(factor, left.double(), upper=False).to(inverse.dtype)
    return torch.addmm(inverse, half.T, half, alpha=-1)


def multipliers(
    kernel: Tensor, wanted: Tensor, ridge: float, limit: Tensor, sweeps: int = 60
) -> Tensor:
    """How much of every row's direction there is to be, so that each scalar changes enough.

    The shift of least cost that changes every scalar by at least what is wanted has multipliers
    a >= 0 that minimise a^T (K + r diag(K)) a / 2 - b^T a; here they are also bounded from
    above. Rows that are alike would otherwise get large multipliers of opposite signs, which
    leave little at the rows themselves and a large shift everywhere else.

    Solved by projected coordinate descent in float64.

    Args:
        kernel: (n, n) K, symmetric, the sum over all modules.
        wanted: (n,) b, not negative.
        ridge: r.
        limit: (n,) the most of each.
        sweeps: Over all rows, at most; fewer where nothing moves any more.

    Returns:
        (n,) float64 a; nan where the kernel is not finite.
    """
    matrix, want = kernel.double().cpu().numpy(), wanted.double().cpu().numpy()
    most = limit.double().cpu().numpy()
    own = matrix.diagonal() * (1 + ridge)
    if not (np.isfinite(matrix).all() and np.isfinite(want).all()):
        return torch.full((len(want),), float("nan"), dtype=torch.float64)
    found = np.zeros_like(want)
    reached = np.zeros_like(want)
    for _ in range(sweeps):
        moved = 0.0
        for row in range(len(want)):
            if own[row] <= 0:
                continue
            step = (want[row] - reached[row] - (own[row] - matrix[row, row]) * found[row]) / own[
                row
            ]
            value = min(max(found[row] + step, 0.0), most[row])
            change = value - found[row]
            if change:
                reached += change * matrix[row]
                found[row] = value
                moved = max(moved, abs(change) * own[row])
        if moved <= 1e-6 * max(float(want.max(initial=0.0)), 1e-30):
            break
    return torch.from_numpy(found)
