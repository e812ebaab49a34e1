"""Shifts under a metric of the input space: which directions are dear to move, and which cheap."""

from __future__ import annotations

import torch
from torch import Tensor

ROUNDING = 1e-6


def metric_rows(
    keys: Tensor, targets: Tensor, inverse: Tensor, ridge: float
) -> tuple[Tensor, Tensor, Tensor]:
    """L and R such that `L.T @ R` is M^-1 H^T (H M^-1 H^T + r D)^-1 V.

    D is the diagonal of H M^-1 H^T, so every row is damped in its own units: a key that M
    already makes dear (an edit written again) is held back no more than a new one.

    Args:
        keys: (n, d) inputs H.
        targets: (n, e) values V.
        inverse: (d, d) M^-1, symmetric and positive.
        ridge: r, a share of each row's own diagonal entry.

    Returns:
        L = H M^-1, (n, d); R, (n, e); and H M^-1 H^T, (n, n) in float64. The solve is in
        float64. R holds nan where the system is not positive.
    """
    left = keys @ inverse
    system = left.double() @ keys.double().T
    system = (system + system.T) / 2
    damped = system.clone()
    # A key of nothing has nothing to write.
    damped.diagonal().mul_(1 + ridge).clamp_(min=torch.finfo(torch.float32).tiny)
    factor, failed = torch.linalg.cholesky_ex(damped)
    if failed:
        return left, torch.full_like(targets, float("nan")), system
    return left, torch.cholesky_solve(targets.double(), factor).to(targets.dtype), system


def absorbed(inverse: Tensor, left: Tensor, system: Tensor, weight: float) -> Tensor:
    """(M + w H^T H)^-1 from M^-1, by the Woodbury identity.

    Args:
        inverse: (d, d) M^-1.
        left: (n, d) H M^-1.
        system: (n, n) H M^-1 H^T.
        weight: w.

    Returns:
        A new (d, d) tensor in the dtype of `inverse`, symmetric.

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
