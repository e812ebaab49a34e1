"""What modules see and give at some tokens of a batch, and how to move it there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ultraedit.encoding.batching import Batch
from ultraedit.errors import UnsupportedModelError


@dataclass(frozen=True)
class Spots:
    """Some tokens of a batch.

    Attributes:
        flat: (n,) int64 on the CPU, their places in the batch's padded tokens.
        total: Padded tokens of the batch, b * t.
    """

    flat: Tensor
    total: int

    @staticmethod
    def of(batch: Batch, places: Sequence[int]) -> Spots:
        """One token of every row, from its place in its text.

        Args:
            batch: Some of the texts.
            places: Of every text that `batch.index` may name, counted in its own tokens.
        """
        own = torch.tensor([places[index] for index in batch.index.tolist()])
        columns = torch.tensor(batch.starts) + own
        flat = torch.arange(len(columns)) * batch.width + columns
        return Spots(flat, len(columns) * batch.width)

    @staticmethod
    def of_texts(batch: Batch, places: Sequence[Sequence[int]], column: int = 0) -> Spots:
        """Some tokens of every row, from their places in its text; row by row.

        Args:
            batch: Some of the texts.
            places: Of every text that `batch.index` may name, counted in its own tokens.
            column: The first column that a pass sees.
        """
        width = batch.width - column
        flat = [
            row * width + start + place - column
            for row, (start, index) in enumerate(
                zip(batch.starts, batch.index.tolist(), strict=True)
            )
            for place in places[index]
        ]
        return Spots(torch.tensor(flat), len(batch.starts) * width)

    @staticmethod
    def masked(mask: Tensor) -> Spots:
        """Those where (b, t) `mask` is true."""
        return Spots(mask.flatten().nonzero()[:, 0].cpu(), mask.numel())

    def rows(self, hidden: Tensor) -> Tensor:
        """(n, f) of (b, t, f), or of (b * t, f) where a model flattens texts before its MLP."""
        return self.flattened(hidden)[self.flat.to(hidden.device)]

    def flattened(self, hidden: Tensor) -> Tensor:
        """(b * t, f).

        Raises:
            UnsupportedModelError: these are only some of the tokens, as an expert is given.
        """
        rows = hidden.reshape(-1, hidden.shape[-1])
        if len(rows) != self.total:
            raise UnsupportedModelError(
                "a module that is given only some of a text's tokens, like an expert, cannot be"
                " edited by this method"
            )
        return rows


@contextmanager
def recorded(
    modules: Mapping[str, nn.Module], spots: Spots
) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """Inside, a pass leaves each module's input and output at the spots, in float32.

    Of a module that returns several things the first counts, as of a decoder block. Its input
    is the first argument, or `hidden_states`.
    """
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def hook_for(name: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
            given = args[0] if args else kwargs["hidden_states"]
            seen[name] = spots.rows(given).float(), spots.rows(first_of(output)).float()

        return hook

    handles = [
        module.register_forward_hook(hook_for(name), with_kwargs=True)
        for name, module in modules.items()
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def moved(module: nn.Module, spots: Spots, change: Tensor) -> Iterator[None]:
    """Inside, (n, e) `change` is added to what the module gives at the spots."""

    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        hidden = first_of(output)
        flat = spots.flattened(hidden)
        own = change.to(hidden.device, hidden.dtype)
        # Not in place: blocks may still need what a module gave.
        found = flat.index_add(0, spots.flat.to(hidden.device), own).reshape(hidden.shape)
        return (found, *output[1:]) if isinstance(output, tuple) else found

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def first_of(output: Any) -> Tensor:
    """The hidden states that a module returns, alone or before other things."""
    return output[0] if isinstance(output, tuple) else output


class _Reached(Exception):  # noqa: N818 - it ends a pass, nothing is wrong
    pass


@torch.no_grad()
def inputs_at(
    model: nn.Module,
    modules: Mapping[str, nn.Module],
    batches: Iterable[tuple[Batch, Tensor]],
) -> Iterator[dict[str, Tensor]]:
    """Inputs of each module at some tokens, batch by batch.

    A pass ends at the last of the modules: what lies behind it is not run.

    Args:
        model: A causal language model, in evaluation mode.
        modules: By name, in model order.
        batches: Padded texts, each with a (b, t) bool mask of the tokens that count.

    Yields:
        (n, d) float32 by module, on the module's device.
    """
    *_, last = modules.values()

    def end(module: nn.Module, args: Any, output: Any) -> None:
        raise _Reached

    for batch, mask in batches:
        with recorded(modules, Spots.masked(mask)) as seen:
            handle = last.register_forward_hook(end)
            try:
                model(
                    input_ids=batch.input_ids,
                    attention_mask=batch.attention_mask,
                    position_ids=batch.position_ids,
                    use_cache=False,
                )
            except _Reached:
                pass
            finally:
                handle.remove()
        yield {name: inputs for name, (inputs, _) in seen.items()}
