"""What a later turn depends on, as tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ultraedit.errors import InputError
from ultraedit.methods.anchored import defaults
from ultraedit.methods.anchored.memory import KeyMemory


@dataclass(frozen=True)
class AnchoredState:
    """The state of the method; replaced, never written into.

    Attributes:
        memories: Per module.
        sizes: Per module, the usual length of what it gives; see `Anchors.size`.
        beginnings: Texts that prompts are also read behind.
    """

    memories: Mapping[str, KeyMemory] = field(default_factory=dict)
    sizes: Mapping[str, float] = field(default_factory=dict)
    beginnings: tuple[str, ...] = ()

    def on(self, devices: Mapping[str, torch.device]) -> AnchoredState:
        """With what belongs to a module on that module's device, if it is named."""
        memories = {n: m.on(devices[n]) if n in devices else m for n, m in self.memories.items()}
        return replace(self, memories=memories)

    def after(self, lefts: Mapping[str, Tensor], systems: Mapping[str, Tensor]) -> AnchoredState:
        """After a turn with these keys, see `KeyMemory.after`."""
        memories = {
            name: memory.after(lefts[name], systems[name], defaults.KEY_WEIGHT)
            if name in systems
            else memory
            for name, memory in self.memories.items()
        }
        return replace(self, memories=memories)

    def tensors(self) -> dict[str, Tensor]:
        """By name; nothing before the first turn."""
        if not self.memories:
            return {}
        held: dict[str, Tensor] = {}
        for name, memory in self.memories.items():
            held[f"anchors.{name}"] = memory.anchors
            held[f"inverse.{name}"] = memory.inverse
            held[f"keys.{name}"] = torch.tensor(memory.keys, dtype=torch.float64)
            held[f"size.{name}"] = torch.tensor(self.sizes[name], dtype=torch.float64)
        text = "\n".join(self.beginnings).encode()
        held["beginnings"] = torch.frombuffer(bytearray(text + b"\n"), dtype=torch.uint8).clone()
        return held

    @staticmethod
    def of(tensors: Mapping[str, Tensor]) -> AnchoredState:
        """The state that `tensors` was made of.

        Raises:
            InputError: it is no state of this method, or one of an earlier version of it.
        """
        if not tensors:
            return AnchoredState()
        if "texts.ids" in tensors:
            raise InputError(
                "this model was edited by an earlier design of method anchored; its weights and"
                " journal can be read, exported and undone, but it cannot be edited further"
            )
        try:
            anchors = {
                k.removeprefix("anchors."): v
                for k, v in tensors.items()
                if k.startswith("anchors.")
            }
            memories = {
                name: KeyMemory(metric, tensors[f"inverse.{name}"], float(tensors[f"keys.{name}"]))
                for name, metric in anchors.items()
            }
            sizes = {name: float(tensors[f"size.{name}"]) for name in anchors}
            text = bytes(tensors["beginnings"].cpu().numpy().tobytes()).decode()
        except (KeyError, ValueError, RuntimeError) as error:
            raise InputError(f"this is no state of method anchored: {error}") from None
        return AnchoredState(
            memories, sizes, tuple(text.removesuffix("\n").split("\n")) if text.strip() else ()
        )
