"""Which side copy knows a text, and what it answers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ultraedit.methods.routing import UNROUTED
from ultraedit.methods.wise.scores import scores
from ultraedit.methods.wise.shards import Shard


class SideCopies:
    """Side copies of one linear map; a `SideMemory`.

    Args:
        shards: What differs from the map.
        ratio: A copy answers what scores above `ratio` of the least its own edits do.
    """

    def __init__(self, shards: Sequence[Shard], ratio: float) -> None:
        self.shards = tuple(shards)
        self.ratio = ratio
        self._served: dict[tuple[int, torch.dtype], Tensor] = {}

    def choose(self, inputs: Tensor, asked: Tensor) -> Tensor:
        """The copy that a text activates most, of those whose edits score no more."""
        count = len(inputs)
        text, keys = asked.nonzero()[:, 0], inputs[asked]
        chosen = torch.full((count,), UNROUTED, device=inputs.device)
        highest = torch.zeros(count, device=inputs.device)
        for number, shard in enumerate(self.shards):
            found = scores(keys, text, count, self._delta(number, keys.dtype))
            ours = (found > self.ratio * shard.least) & (found > highest)
            chosen[ours], highest[ours] = number, found[ours]
        return chosen

    def answer(self, entry: int, inputs: Tensor, outputs: Tensor) -> Tensor:
        return outputs + inputs @ self._delta(entry, inputs.dtype)

    def _delta(self, number: int, dtype: torch.dtype) -> Tensor:
        """What a copy adds to the map, in the model's dtype; made once."""
        key = number, dtype
        if key not in self._served:
            self._served[key] = self.shards[number].delta.to(dtype)
        return self._served[key]
