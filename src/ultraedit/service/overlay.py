"""What edit sets add to a model's linear maps, for some rows of a batch and not for others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ultraedit.linalg.full_precision import full_precision

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Overlay:
    """Low-rank additions to the linear maps of a model; it never changes.

    Attributes:
        factors: Module name -> (d, k) and (k, e) float32: an input x of the module adds
            `x @ first @ second` to its output.
        version: Of which state of a set, for people and for comparing.
    """

    factors: Mapping[str, Pair] = field(default_factory=dict)
    version: str = ""

    @property
    def rank(self) -> int:
        """The largest k of all modules."""
        return max((first.shape[1] for first, _ in self.factors.values()), default=0)

    @property
    def bytes(self) -> int:
        """Memory that the factors take."""
        return sum(a.nbytes + b.nbytes for a, b in self.factors.values())

    def plus(self, other: Overlay) -> Overlay:
        """The sum of both."""
        found = dict(self.factors)
        for name, (first, second) in other.factors.items():
            if name in found:
                first = torch.cat([found[name][0], first], 1)
                second = torch.cat([found[name][1], second], 0)
            found[name] = (first, second)
        return Overlay(found)

    def to(self, model: nn.Module) -> Overlay:
        """With each pair on the device of its module."""
        found = {}
        for name, (first, second) in self.factors.items():
            device = model.get_parameter(f"{name}.weight").device
            found[name] = (first.to(device), second.to(device))
        return replace(self, factors=found)


NOTHING = Overlay()


class Overlaid:
    """A model whose passes add overlays, each to its own rows of the batch.

    One thread may run the model; `close` takes the hooks away again.

    Args:
        model: In evaluation mode. Its weights stay as they are.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._hooks: dict[str, Any] = {}
        self._parts: Sequence[tuple[slice, Overlay]] = ()
        self._rows = 0

    @contextmanager
    def rows(self, overlays: Sequence[Overlay]) -> Iterator[None]:
        """Inside, row i of a batch is answered with `overlays[i]`; equal ones stand together best.

        Every pass inside has as many rows, in whatever shape they reach the modules.
        """
        parts = list(_runs(overlays))
        self._register(name for _, overlay in parts for name in overlay.factors)
        self._parts, self._rows = parts, len(overlays)
        try:
            yield
        finally:
            self._parts, self._rows = (), 0

    def always(self, overlay: Overlay) -> bool:
        """Answer every row with one overlay, until another is given; whether it is another."""
        before = self._parts[0][1] if self._parts else NOTHING
        self._register(overlay.factors)
        self._parts, self._rows = ((slice(None), overlay),), 0
        return overlay is not before

    def close(self) -> None:
        for handle in self._hooks.values():
            handle.remove()
        self._hooks.clear()

    def _register(self, names: Iterable[str]) -> None:
        for name in names:
            if name not in self._hooks:
                module = self.model.get_submodule(name)
                self._hooks[name] = module.register_forward_hook(self._adding(name))

    def _adding(self, name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            mine = [(rows, o.factors[name]) for rows, o in self._parts if name in o.factors]
            if not mine:
                return None
            inputs = args[0]
            # Some models flatten rows and positions before their MLP.
            positions = inputs.shape[0] // self._rows if self._rows else 1
            if torch.is_grad_enabled():
                output = output.clone()
            with full_precision():
                for rows, (first, second) in mine:
                    place = rows
                    if positions > 1:
                        place = slice(rows.start * positions, rows.stop * positions)
                    added = inputs[place].to(first.dtype) @ first @ second
                    output[place] += added.to(output.dtype)
            return output

        return hook


def _runs(overlays: Sequence[Overlay]) -> Iterator[tuple[slice, Overlay]]:
    """Neighbouring rows of one overlay, where it adds anything."""
    start = 0
    for place in range(1, len(overlays) + 1):
        if place == len(overlays) or overlays[place] is not overlays[start]:
            if overlays[start].factors:
                yield slice(start, place), overlays[start]
            start = place
