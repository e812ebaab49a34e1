"""What a later turn depends on, as tensors."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate

import torch
from torch import Tensor

from ultraedit.encoding.tokenise import Encoded
from ultraedit.errors import InputError
from ultraedit.methods.anchored import derive
from ultraedit.methods.anchored.likeness import Likeness
from ultraedit.methods.anchored.memory import KeyMemory


@dataclass(frozen=True)
class State:
    """The state of the method; replaced, never written into.

    Attributes:
        leaders: For every module the first that has the same inputs.
        whitening: Per module; see `Anchors`.
        memories: Per leader.
        texts: The anchors.
        known: (tokens of all anchors,) float32, their leads in the unedited model, in nats;
            minus infinity once an edit has named what they speak of.
        likeness: Of the anchors' keys.
        turns: How many wrote something.
    """

    leaders: Mapping[str, str] = field(default_factory=dict)
    whitening: Mapping[str, Tensor] = field(default_factory=dict)
    memories: Mapping[str, KeyMemory] = field(default_factory=dict)
    texts: tuple[Encoded, ...] = ()
    known: Tensor = field(default_factory=lambda: torch.empty(0))
    likeness: Likeness = field(default_factory=Likeness.of_nothing)
    turns: int = 0

    def on(self, devices: Mapping[str, torch.device]) -> State:
        """With what belongs to a module on that module's device, if it is named."""
        return replace(
            self,
            whitening={
                n: m.to(devices[n]) if n in devices else m for n, m in self.whitening.items()
            },
            memories={n: m.on(devices[n]) if n in devices else m for n, m in self.memories.items()},
            likeness=self.likeness.on(devices[self.likeness.module])
            if self.likeness.module in devices
            else self.likeness,
        )

    def watched(self, count: int) -> tuple[list[Encoded], Tensor]:
        """Anchors of the turn to come, and where in `known` their tokens are.

        Others in every turn, the same ones on every machine.
        """
        places = random.Random(self.turns).sample(
            range(len(self.texts)), min(count, len(self.texts))
        )
        ends = list(accumulate(len(text.target) for text in self.texts))
        tokens = [n for p in places for n in range(ends[p] - len(self.texts[p].target), ends[p])]
        return [self.texts[place] for place in places], torch.tensor(tokens, dtype=torch.int64)

    def edited(self, tokens: Tensor) -> State:
        """With what these anchors' tokens said given up, by their places: an edit named it."""
        known = self.known.clone()
        known[tokens.to(known.device)] = -torch.inf
        return replace(self, known=known)

    def after(
        self, lefts: Mapping[str, Tensor], systems: Mapping[str, Tensor], named: Tensor
    ) -> State:
        """After a turn with these keys, see `KeyMemory.after`, that named these tokens."""
        memories = {
            name: memory.after(lefts[name], systems[name], derive.KEY_WEIGHT)
            if name in systems
            else memory
            for name, memory in self.memories.items()
        }
        return replace(self.edited(named), memories=memories, turns=self.turns + 1)

    def tensors(self) -> dict[str, Tensor]:
        """By name; nothing before the first turn."""
        if not self.memories:
            return {}
        names = list(self.leaders)
        held = {"turns": torch.tensor(self.turns), **_packed(self.texts)}
        held |= {"texts.known": self.known, "texts.keys": self.likeness.tokens}
        held[f"likeness.{self.likeness.module}"] = self.likeness.projection
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
            ((module, projection),) = _under(tensors, "likeness.").items()
            leaders = {name: by_place[int(number)] for name, number in numbers.items()}
            return State(
                leaders,
                whitening,
                memories,
                _unpacked(tensors),
                tensors["texts.known"],
                Likeness(module, projection, tensors["texts.keys"]),
                int(tensors["turns"]),
            )
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
