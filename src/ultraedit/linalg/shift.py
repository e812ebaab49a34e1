"""What a method wants added to a weight, with rows that know their edit."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ultraedit.linalg.full_precision import full_precision


@dataclass(frozen=True)
class LowRank:
    """The shift `left.T @ right` of a linear map from d to e features.

    Attributes:
        left: (n, d) float32, one row per answer token.
        right: (n, e) float32.
        edit_index: (n,) int64, the turn's edit each row belongs to, in input order; negative
            for a row that belongs to none.
    """

    left: Tensor
    right: Tensor
    edit_index: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        return self.left.shape[1], self.right.shape[1]

    def dense(self) -> Tensor:
        """(d, e): the whole shift."""
        with full_precision():
            return self.left.T @ self.right

    def of_edits(self, edits: Tensor | list[int]) -> LowRank:
        """The part of the shift that the given edits' rows contribute."""
        keep = torch.isin(self.edit_index, torch.as_tensor(edits, device=self.edit_index.device))
        return LowRank(self.left[keep], self.right[keep], self.edit_index[keep])

    def scaled(self, factor: float) -> LowRank:
        return replace(self, right=self.right * factor)

    def to(self, device: torch.device) -> LowRank:
        index = self.edit_index.to(device)
        return LowRank(self.left.to(device), self.right.to(device), index)

    def is_finite(self) -> bool:
        return bool(torch.isfinite(self.left).all() and torch.isfinite(self.right).all())


@dataclass(frozen=True)
class Dense:
    """A shift whose rows belong to no single edit.

    Attributes:
        delta: (d, e) float32.
    """

    delta: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        return self.delta.shape[0], self.delta.shape[1]

    def dense(self) -> Tensor:
        return self.delta

    def scaled(self, factor: float) -> Dense:
        return Dense(self.delta * factor)

    def to(self, device: torch.device) -> Dense:
        return Dense(self.delta.to(device))

    def is_finite(self) -> bool:
        return bool(torch.isfinite(self.delta).all())


Shift = LowRank | Dense
