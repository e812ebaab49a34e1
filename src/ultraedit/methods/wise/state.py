"""What WISE keeps from turn to turn, and as tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ultraedit.errors import InputError
from ultraedit.methods.wise.shards import Shard, mask, merged


@dataclass(frozen=True)
class State:
    """Side memories, and the units they are measured in.

    Attributes:
        share: Of entries that a shard may change.
        shards: Those that are their masks' alone, the last of which is written to.
        memories: Those that were merged.
        unit: Of the margins; 0 before the first turn.
        lr: Of training, in the model's units; 0 before the first turn.
    """

    share: float
    shards: tuple[Shard, ...] = ()
    memories: tuple[Shard, ...] = ()
    unit: float = 0.0
    lr: float = 0.0

    @property
    def serving(self) -> tuple[Shard, ...]:
        """All that answer queries."""
        return self.memories + self.shards

    @property
    def live(self) -> Shard:
        """The shard that is written to."""
        return self.shards[-1]

    def written(self, live: Shard) -> State:
        """With another live shard."""
        return replace(self, shards=(*self.shards[:-1], live))

    def closed(self, merge: int, density: float) -> State:
        """With the live shard kept and a new one begun; `merge` kept ones become one memory."""
        full, memories = self.shards, self.memories
        d, e = self.live.delta.shape
        if len(full) == merge:
            full, memories = (), (*memories, merged(full, density))
        fresh = Shard.empty(d, e, self.live.number + 1, self.live.delta.device)
        return replace(self, shards=(*full, fresh), memories=memories)

    def tensors(self) -> dict[str, Tensor]:
        """By name; nothing before the first turn. Of shards only what their masks let change."""
        if not self.shards:
            return {}
        sizes = [*self.live.delta.shape]
        found = {
            "shape": torch.tensor(sizes),
            "units": torch.tensor([self.share, self.unit, self.lr], dtype=torch.float64),
        }
        for number, shard in enumerate(self.shards):
            own = self._mask(shard).to(shard.delta.device)
            found |= _numbers(f"shard.{number}", shard) | {
                f"shard.{number}.values": shard.delta[own]
            }
        for number, memory in enumerate(self.memories):
            found |= _numbers(f"memory.{number}", memory) | {f"memory.{number}.delta": memory.delta}
        return found

    def _mask(self, shard: Shard) -> Tensor:
        d, e = shard.delta.shape
        return mask(d, e, self.share, shard.number)

    @staticmethod
    def of(tensors: Mapping[str, Tensor], share: float) -> State:
        """The state that `tensors` was made of.

        Raises:
            InputError: it is no state of this method.
        """
        if not tensors:
            return State(share)
        try:
            d, e = tensors["shape"].tolist()
            share, unit, lr = tensors["units"].tolist()
            shards = []
            for number in range(_count(tensors, "shard")):
                shard = _shard(tensors, f"shard.{number}", torch.zeros(d, e))
                values = tensors[f"shard.{number}.values"]
                delta = torch.zeros(d, e, device=values.device)
                delta[mask(d, e, share, shard.number).to(values.device)] = values
                shards.append(replace(shard, delta=delta))
            memories = tuple(
                _shard(tensors, f"memory.{number}", tensors[f"memory.{number}.delta"])
                for number in range(_count(tensors, "memory"))
            )
        except (KeyError, ValueError, RuntimeError, IndexError) as error:
            raise InputError(f"this is no state of method wise: {error}") from None
        return State(share, tuple(shards), memories, unit, lr)

    def on(self, device: torch.device) -> State:
        """With everything on one device."""
        return replace(
            self,
            shards=tuple(shard.on(device) for shard in self.shards),
            memories=tuple(memory.on(device) for memory in self.memories),
        )


def _numbers(stem: str, shard: Shard) -> dict[str, Tensor]:
    values = [shard.least, float(shard.number), float(shard.edits)]
    return {f"{stem}.numbers": torch.tensor(values, dtype=torch.float64)}


def _shard(tensors: Mapping[str, Tensor], stem: str, delta: Tensor) -> Shard:
    least, number, edits = tensors[f"{stem}.numbers"].tolist()
    return Shard(delta, least, int(number), int(edits))


def _count(tensors: Mapping[str, Tensor], kind: str) -> int:
    return sum(name.startswith(f"{kind}.") and name.endswith(".numbers") for name in tensors)
