"""Lifelong normalisation: exact running moments and z-scores (arXiv:2505.14679, section 3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

EPSILON = 1.19e-7


@dataclass(frozen=True)
class Moments:
    """Count, mean and sum of squared deviations of all rows seen so far.

    Attributes:
        count: Rows seen.
        mean: (k,) float64.
        squares: (k,) float64, sum over rows of (row - mean)^2.
    """

    count: int
    mean: Tensor
    squares: Tensor

    @staticmethod
    def empty(width: int, device: torch.device | str = "cpu") -> Moments:
        zeros = torch.zeros(width, dtype=torch.float64, device=device)
        return Moments(0, zeros, zeros)

    def update(self, rows: Tensor) -> Moments:
        """Moments after `rows` (m, k) as well: the pairwise update of Chan et al. (1979).

        A new object is returned, so that a refused turn can simply forget it.
        """
        if not len(rows):
            return self
        # In place on one copy: at 7B shapes every temporary is some 70 MB.
        rows = rows.to(torch.float64, copy=True)
        total = self.count + len(rows)
        mean = rows.mean(0)
        delta = mean - self.mean
        squares = rows.sub_(mean).square_().sum(0)
        return Moments(
            total,
            self.mean + delta * (len(rows) / total),
            self.squares + squares + delta.square() * (self.count * len(rows) / total),
        )

    def std(self) -> Tensor:
        """(k,) float64 sample standard deviation, with n - 1.

        Raises:
            ValueError: fewer than two rows seen.
        """
        if self.count < 2:
            raise ValueError(f"a standard deviation needs two rows, not {self.count}")
        return (self.squares / (self.count - 1)).sqrt()

    def normalise(self, rows: Tensor) -> Tensor:
        """(rows - mean) / (std + eps), of the rows' shape and dtype."""
        exact = rows.to(torch.float64, copy=True)
        return exact.sub_(self.mean).div_(self.std() + EPSILON).to(rows.dtype)
