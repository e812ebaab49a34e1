"""The closed form of a turn: values, and the ridge regression that writes them."""

from __future__ import annotations

import torch
from torch import Tensor

from ultraedit.linalg.full_precision import full_precision


def values(inputs: Tensor, gradients: Tensor, lr: float) -> Tensor:
    """V = -eta * rowsum(H^ * H^) * G^, row by row (arXiv:2505.14679, section 3).

    Args:
        inputs: (n, d) normalised inputs H^.
        gradients: (n, e) normalised output gradients G^.
        lr: eta.

    Returns:
        (n, e).
    """
    return -lr * inputs.square().sum(1, keepdim=True) * gradients


@full_precision()
def ridge_rows(keys: Tensor, targets: Tensor, ridge: float = 1.0) -> Tensor:
    """R such that `keys.T @ R` is the ridge solution (H^T H + a I)^-1 H^T V.

    R = (H H^T + a I)^-1 V has one row per row of `keys`, so the shift falls apart into
    what each edit contributes. With n <= d that n x n system is solved by Cholesky. With
    n > d the d x d one is, and R follows from the Woodbury identity:
    R = (V - H (H^T H + a I)^-1 H^T V) / a. Both run in float64: the squared singular
    values of H span more than float32 resolves, and beside a forward pass it is cheap.

    Args:
        keys: (n, d) raw inputs H.
        targets: (n, e) values V.
        ridge: a, in units of squared inputs.

    Returns:
        (n, e) in the dtype of `targets`. Rows hold nan or infinity where the inputs did.
    """
    h, v = keys.double(), targets.double()
    n, d = h.shape
    if n <= d:
        system, right = h @ h.T, v
    else:
        system, right = h.T @ h, h.T @ v
    system.diagonal().add_(ridge)
    factor, failed = torch.linalg.cholesky_ex(system)
    if failed:
        return torch.full_like(targets, float("nan"))
    solution = torch.cholesky_solve(right, factor)
    if n > d:
        solution = torch.addmm(v, h, solution, alpha=-1).div_(ridge)
    return solution.to(targets.dtype)
