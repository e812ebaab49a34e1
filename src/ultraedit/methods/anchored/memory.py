"""The metric of `anchored`: a direction costs what anchors and past edits use of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ultraedit.linalg.metric import absorbed
from ultraedit.methods.anchored.defaults import forgetting


@dataclass(frozen=True)
class KeyMemory:
    """M = A + w P of one module input, kept as its inverse.

    P is the sum of k k^T over the keys of past turns. It is bounded: once it holds
    `defaults.MOST_KEYS`, all of them fade by the same share, so that however many turns have
    gone by, what the anchors need still weighs something.

    Attributes:
        anchors: (d, d) float32 on the CPU, A: the metric before any edit.
        inverse: (d, d) float32, M^-1.
        keys: How many keys P holds, faded ones in proportion.
    """

    anchors: Tensor
    inverse: Tensor
    keys: float

    @staticmethod
    def empty(anchors: Tensor, device: torch.device | str = "cpu") -> KeyMemory:
        """Of the metric A; the inverse is made and kept on `device`."""
        inverse = _inverted(anchors.to(device).double()).to(anchors.dtype)
        return KeyMemory(anchors.cpu(), inverse, 0.0)

    def on(self, device: torch.device) -> KeyMemory:
        # Anchors are asked for when P fades, which is seldom, and are as large as the inverse.
        return replace(self, inverse=self.inverse.to(device))

    def after(self, left: Tensor, system: Tensor, weight: float) -> KeyMemory:
        """With the keys of one more turn; a new object.

        Args:
            left: (n, d) H M^-1.
            system: (n, n) H M^-1 H^T.
            weight: w, of every key, where the anchors weigh one in all.
        """
        inverse = absorbed(self.inverse, left, system, weight)
        held = replace(self, inverse=inverse, keys=self.keys + len(left))
        share = forgetting(held.keys)
        return held.faded(share) if share < 1 else held

    def faded(self, share: float) -> KeyMemory:
        """With `share` of P: M becomes share M + (1 - share) A, both positive."""
        # In float64, and seldom: the inverse is all that is kept of P.
        metric = _inverted(self.inverse.double()).mul_(share)
        metric.add_(self.anchors.to(metric.device).double(), alpha=1 - share)
        return replace(
            self, inverse=_inverted(metric).to(self.inverse.dtype), keys=self.keys * share
        )


def _inverted(matrix: Tensor) -> Tensor:
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(matrix))
    # Laid out as it is read from a file: another order in memory is another order of summation.
    return ((inverse + inverse.T) / 2).contiguous()
