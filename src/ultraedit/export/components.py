"""A shift as a sum of rank-one parts, largest first."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

EPSILON = torch.finfo(torch.float64).eps


@dataclass(frozen=True, eq=False)
class Components:
    """The shift `inputs.T @ outputs` of a map from d to e features.

    Each part's scale is shared evenly between its two vectors, so that none is hard to
    hold in a narrow dtype.

    Args:
        inputs: (k, d) float32.
        outputs: (k, e) float32.
    """

    inputs: Tensor
    outputs: Tensor

    def __len__(self) -> int:
        return len(self.inputs)

    def first(self, rank: int) -> Components:
        """The first `rank` parts, filled up with zeros where there are fewer."""
        return Components(_rows(self.inputs, rank), _rows(self.outputs, rank))


def of_factors(left: Tensor, right: Tensor) -> Components:
    """The singular value decomposition of `left.T @ right`, which is never formed.

    Both factors are orthogonalised, which leaves a core of n x n to decompose.

    Args:
        left: (n, d), n at most d.
        right: (n, e), n at most e.
    """
    first, core_left = torch.linalg.qr(left.T.double())
    second, core_right = torch.linalg.qr(right.T.double())
    u, values, vh = torch.linalg.svd(core_left @ core_right.T)
    # Rows that cancel, as an edit and its withdrawal do, leave rounding errors of their size.
    noise = len(left) * EPSILON * core_left.norm() * core_right.norm()
    keep = values > noise
    scale = values[keep].sqrt()[:, None]
    inputs, outputs = (first @ u).T[keep], (second @ vh.T).T[keep]
    return Components((scale * inputs).float(), (scale * outputs).float())


def of_dense(delta: Tensor) -> Components:
    """The singular value decomposition of a (d, e) float64 matrix.

    By the eigenvectors V of the smaller Gram matrix, several times faster than a direct
    decomposition. That loses singular values below 1e-8 of the largest, but nothing here
    rests on them: the other side is the matrix itself projected onto V, so the parts add
    up to the matrix, and the first r miss at most 1e-8 of it more than the best r would.
    The float32 they are rounded to is coarser.
    """
    wide = delta.shape[0] <= delta.shape[1]
    short = delta if wide else delta.T
    vectors = torch.linalg.eigh(short @ short.T).eigenvectors.flip(1).T
    projected = vectors @ short
    values = projected.norm(dim=1)
    keep = values > EPSILON * values.max()
    scale = values[keep].sqrt()[:, None]
    near, far = (scale * vectors[keep]).float(), (projected[keep] / scale).float()
    return Components(near, far) if wide else Components(far, near)


def _rows(matrix: Tensor, count: int) -> Tensor:
    missing = max(count - len(matrix), 0)
    return torch.cat([matrix[:count], matrix.new_zeros(missing, matrix.shape[1])])
