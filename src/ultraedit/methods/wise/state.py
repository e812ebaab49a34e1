"""What WISE keeps from turn to turn, and as tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ultraedit.errors import InputError
from ultraedit.methods.wise.shards import Shard, merged


@dataclass(frozen=True)
class WiseState:
    """Side memories, and what their scores are counted in.

    Attributes:
        shards: Those that are not merged, the last of which is written to; none before the
            first turn.
        memories: Those that were merged.
        unit: Of activation scores.
    """

    shards: tuple[Shard, ...] = ()
    memories: tuple[Shard, ...] = ()
    unit: float = 1.0

    @property
    def serving(self) -> tuple[Shard, ...]:
        """All that answer queries."""
        return self.memories + self.shards

    @property
    def live(self) -> Shard:
        """The shard that is written to."""
        return self.shards[-1]

    def written(self, live: Shard) -> WiseState:
        """With another live shard."""
        return replace(self, shards=(*self.shards[:-1], live))

    def closed(self, merge: int, density: float) -> WiseState:
        """With the live shard kept and a new one begun; `merge` kept ones become one memory."""
        full, memories, live = self.shards, self.memories, self.live
        if len(full) == merge:
            full, memories = (), (*memories, merged(full, density))
        d, e = live.delta.shape
        fresh = Shard.empty(d, e, live.share, live.number + 1, live.delta.device)
        return replace(self, shards=(*full, fresh), memories=memories)

    def tensors(self) -> dict[str, Tensor]:
        """By name; nothing before the first turn. A shard that is the same has the same tensor."""
        if not self.shards:
            return {}
        counts = [*self.live.delta.shape, len(self.shards), len(self.memories)]
        found = {
            "counts": torch.tensor(counts),
            "unit": torch.tensor(self.unit, dtype=torch.float64),
        }
        for kind, held in (("shard", self.shards), ("memory", self.memories)):
            for number, shard in enumerate(held):
                found[f"{kind}.{number}.values"] = shard.values
                found[f"{kind}.{number}.numbers"] = shard.numbers
        return found

    @staticmethod
    def of(tensors: Mapping[str, Tensor]) -> WiseState:
        """The state that `tensors` was made of; there may be others beside.

        Raises:
            InputError: it is no state of this method.
        """
        if not tensors:
            return WiseState()

        def held(kind: str, count: int) -> tuple[Shard, ...]:
            stems = [f"{kind}.{number}" for number in range(count)]
            return tuple(
                Shard.unpacked(tensors[f"{stem}.values"], d, e, tensors[f"{stem}.numbers"])
                for stem in stems
            )

        try:
            d, e, shards, memories = tensors["counts"].tolist()
            unit = float(tensors["unit"])
            return WiseState(held("shard", shards), held("memory", memories), unit)
        except (KeyError, ValueError, RuntimeError, IndexError) as error:
            raise InputError(f"this is no state of method wise: {error}") from None

    def on(self, device: torch.device) -> WiseState:
        """With everything on one device."""
        return replace(
            self,
            shards=tuple(shard.on(device) for shard in self.shards),
            memories=tuple(memory.on(device) for memory in self.memories),
        )
