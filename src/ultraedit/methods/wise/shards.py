"""Where a shard may change the matrix, and how shards become one (arXiv:2405.14768, 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

SEED = 17


# Compared by identity: what is the same shard still need not be kept again.
@dataclass(frozen=True, eq=False)
class Shard:
    """A side copy W' of the matrix, as what it adds.

    Attributes:
        delta: (d, e) float32, (W' - W)^T; zero where its mask is not.
        share: Of the entries that its mask lets change; 1 for a merged one, which has none.
        least: The smallest activation score of an edit it holds; infinite while it holds none.
        number: Which shard it is, counted over all edits; that of its mask.
        edits: How many edits it holds.
    """

    delta: Tensor
    share: float
    least: float
    number: int
    edits: int

    @staticmethod
    def empty(
        d: int, e: int, share: float, number: int, device: torch.device | str = "cpu"
    ) -> Shard:
        return Shard(torch.zeros(d, e, device=device), share, float("inf"), number, 0)

    @staticmethod
    def unpacked(values: Tensor, d: int, e: int, numbers: Tensor) -> Shard:
        """From its `values` and `numbers`."""
        share, least, number, edits = numbers.tolist()
        delta = values.clone().reshape(d, e) if share == 1 else torch.zeros(d, e).to(values)
        if share < 1:
            delta[mask(d, e, share, int(number)).to(values.device)] = values
        return Shard(delta, share, least, int(number), int(edits))

    @cached_property
    def values(self) -> Tensor:
        """The entries that may differ from zero, in one row."""
        if self.share == 1:
            return self.delta.flatten()
        d, e = self.delta.shape
        return self.delta[mask(d, e, self.share, self.number).to(self.delta.device)]

    @property
    def numbers(self) -> Tensor:
        """(4,) float64: all the rest."""
        numbers = [self.share, self.least, float(self.number), float(self.edits)]
        return torch.tensor(numbers, dtype=torch.float64)

    def on(self, device: torch.device) -> Shard:
        if self.delta.device == device:
            return self
        return replace(self, delta=self.delta.to(device))


def mask(d: int, e: int, share: float, number: int) -> Tensor:
    """(d, e) bool on the CPU: the random entries a shard may change; always the same ones."""
    generator = torch.Generator().manual_seed(SEED + number)
    return torch.rand(d, e, generator=generator) < share


def ties(deltas: Sequence[Tensor], density: float) -> Tensor:
    """Several changes of one matrix as one.

    Of each, the `density` of all its entries that are largest stay. Of every entry the sign of
    the sum counts; the result is the mean of what is left with that sign.

    Args:
        deltas: At least one, of one shape.
        density: In (0, 1].

    Returns:
        A tensor of their shape.
    """
    trimmed = torch.stack([_largest(delta, density) for delta in deltas])
    sign = trimmed.sum(0).sign()
    agreeing = (trimmed.sign() == sign) & (trimmed != 0)
    total = torch.where(agreeing, trimmed, 0.0).sum(0)
    return total / agreeing.sum(0).clamp(min=1)


def merged(shards: Sequence[Shard], density: float) -> Shard:
    """One shard with the edits of all; its smallest score is the smallest of theirs."""
    return Shard(
        ties([shard.delta for shard in shards], density),
        1.0,
        min(shard.least for shard in shards),
        shards[-1].number,
        sum(shard.edits for shard in shards),
    )


def _largest(delta: Tensor, density: float) -> Tensor:
    count = round(density * delta.numel())
    if count >= int(delta.count_nonzero()):
        return delta
    flat = delta.flatten()
    kept = torch.topk(flat.abs(), count).indices
    return torch.zeros_like(flat).index_copy(0, kept, flat[kept]).view_as(delta)
