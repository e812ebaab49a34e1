"""What a later turn depends on, as tensors."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ultraedit.encoding.tokenise import Encoded
from ultraedit.errors import InputError
from ultraedit.methods.anchored import derive
from ultraedit.methods.anchored.memory import KeyMemory


@dataclass(frozen=True)
class State:
    """The state of the method; replaced, never written into.

    Attributes:
        leaders: For every module the first that has the same inputs.
        whitening: Per module; see `Anchors`.
        memories: Per leader.
        texts: The anchors.
        turns: How many were made.
    """

    leaders: Mapping[str, str] = field(default_factory=dict)
    whitening: Mapping[str, Tensor] = field(default_factory=dict)
    memories: Mapping[str, KeyMemory] = field(default_factory=dict)
    texts: tuple[Encoded, ...] = ()
    turns: int = 0

    def on(self, devices: Mapping[str, torch.device]) -> State:
        """With what belongs to a module on that module's device, if it is named."""
        return replace(
            self,
            whitening={
                n: m.to(devices[n]) if n in devices else m for n, m in self.whitening.items()
            },
            memories={n: m.on(devices[n]) if n in devices else m for n, m in self.memories.items()},
        )

    def watched(self, count: int) -> list[Encoded]:
        """Anchors of the turn to come: others in every turn, the same ones on every machine."""
        places = random.Random(self.turns).sample(
            range(len(self.texts)), min(count, len(self.texts))
        )
        return [self.texts[place] for place in places]

    def after(self, lefts: Mapping[str, Tensor], systems: Mapping[str, Tensor]) -> State:
        """After a turn with these keys; see `KeyMemory.after`."""
        memories = {
            name: memory.after(lefts[name], systems[name], derive.KEY_WEIGHT)
            if name in systems
            else memory
            for name, memory in self.memories.items()
        }
        return replace(self, memories=memories, turns=self.turns + 1)

    def tensors(self) -> dict[str, Tensor]:
        """By name; nothing before the first turn."""
        if not self.memories:
            return {}
        names = list(self.leaders)
        held = {"turns": torch.tensor(self.turns), **_packed(self.texts)}
        for name in names:
            held[f"leader.{name}"] = torch.tensor(names.index(self.leaders[name]))
            held[f"whitening.{name}"] = self.whitening[name]
        for name, memory in self.memories.items():
            held[f"anchors.{name}"] = memory.anchors
            held[f"inverse.{name}"] = memory.inverse
            held[f"keys.{name}"] = torch.tensor(memory.keys, dtype=torch.float64)
        return held

    @staticmethod
    def of(tensors: Mapping[str, Tensor]) -> State:
        """The state that `tensors` was made of.

        Raises:
            InputError: it is no state of this method.
        """
        if not tensors:
            return State()
        try:
            whitening = _under(tensors, "whitening.")
            numbers = _under(tensors, "leader.")
            # Order is lost in a file; a leader's own number is its place.
            by_place = {int(numbers[name]): name for name in _under(tensors, "inverse.")}
            memories = {
                name: KeyMemory(anchors, tensors[f"inverse.{name}"], float(tensors[f"keys.{name}"]))
                for name, anchors in _under(tensors, "anchors.").items()
            }
            leaders = {name: by_place[int(number)] for name, number in numbers.items()}
            return State(leaders, whitening, memories, _unpacked(tensors), int(tensors["turns"]))
        except (KeyError, ValueError, RuntimeError) as error:
            raise InputError(f"this is no state of method anchored: {error}") from None


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _packed(texts: Sequence[Encoded]) -> dict[str, Tensor]:
    """Token ids in a row, and how many are each text's prompt and target."""
    ids = [token for text in texts for token in text.ids]
    sizes = [(len(text.prompt), len(text.target)) for text in texts]
    return {
        "texts.ids": torch.tensor(ids, dtype=torch.int32),
        "texts.sizes": torch.tensor(sizes, dtype=torch.int32).reshape(-1, 2),
    }


def _unpacked(tensors: Mapping[str, Tensor]) -> tuple[Encoded, ...]:
    ids = iter(tensors["texts.ids"].tolist())
    texts = []
    for prompt, target in tensors["texts.sizes"].tolist():
        before = tuple(next(ids) for _ in range(prompt))
        texts.append(Encoded(before, tuple(next(ids) for _ in range(target)), target))
    return tuple(texts)
