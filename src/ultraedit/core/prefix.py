"""Hidden states at the first edited block: computed once a batch, since nothing below changes."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ultraedit.encoding.batching import Batch

log = logging.getLogger(__name__)

Reuse = Callable[[Batch], AbstractContextManager[Any]]


def no_reuse(batch: Batch) -> AbstractContextManager[None]:
    """Every pass goes through the whole model."""
    return nullcontext()


@dataclass(frozen=True)
class _Held:
    """What the frozen blocks made of a batch.

    Attributes:
        hidden: What the first edited block was given.
        outputs: How many things a frozen block returns; 0 for the hidden state alone.
    """

    hidden: Tensor
    outputs: int

    @property
    def size(self) -> int:
        return self.hidden.numel() * self.hidden.element_size()


class Prefix:
    """A bounded buffer of hidden states, and the model's own forward pass resumed from them.

    Frozen blocks are passed through rather than left out, so masks, position embeddings and
    settings per layer stay the model's business. Passes over the same batch are bit for bit
    those of the whole model.

    Args:
        blocks: The decoder's blocks.
        frozen: How many of them come before the first edited one; at least one.
        most_bytes: Of hidden states; the oldest go first.
    """

    def __init__(self, blocks: Sequence[nn.Module], frozen: int, most_bytes: int) -> None:
        self.blocks = blocks
        self.frozen = frozen
        self.most_bytes = most_bytes
        self.usable = True
        self.checked = False
        self._held: OrderedDict[tuple[Any, ...], _Held] = OrderedDict()
        self._bytes = 0

    @property
    def bytes(self) -> int:
        """What is held now."""
        return self._bytes

    @contextmanager
    def reuse(self, batch: Batch) -> Iterator[None]:
        """Inside, one forward pass over `batch`: from the buffer, or into it."""
        key = _key(batch)
        if not self.usable:
            yield
        elif (held := self._held.get(key)) is not None:
            self._held.move_to_end(key)
            with self._resumed(held):
                yield
        else:
            seen: dict[str, Any] = {}
            with self._watched(seen):
                yield
            if "hidden" in seen and "outputs" in seen:
                self._keep(key, _Held(seen["hidden"], seen["outputs"]))

    def forget(self) -> None:
        """Empty the buffer."""
        self._held.clear()
        self._bytes = 0

    def check(self, run: Callable[[int], Tensor]) -> None:
        """Once: whether a resumed pass is what the whole one was; `refuse` where it is not.

        Another batch comes in between, so that nothing a frozen block left behind elsewhere
        can stand in for its hidden states.

        Args:
            run: A pass over batch 0 or 1 inside `reuse`, and its logits.
        """
        if self.checked or not self.usable:
            return
        self.checked = True
        try:
            whole, _, resumed = run(0), run(1), run(0)
            if not self._held:
                self.refuse("the first edited block is not reached as a block after others")
            elif not torch.allclose(whole, resumed, rtol=1e-4, atol=1e-5):
                self.refuse("later blocks need more of the frozen ones than hidden states")
        except (TypeError, ValueError, RuntimeError, AttributeError, LookupError) as error:
            self.refuse(f"its blocks cannot be passed through ({error})")
        self.forget()

    def refuse(self, reason: str) -> None:
        """Go through the whole model from now on, and say so once."""
        self.usable = False
        self.forget()
        log.warning("every pass goes through the whole model: %s", reason)

    def _keep(self, key: tuple[Any, ...], held: _Held) -> None:
        if held.size > self.most_bytes:
            return
        self._held[key] = held
        self._bytes += held.size
        while self._bytes > self.most_bytes:
            _, oldest = self._held.popitem(last=False)
            self._bytes -= oldest.size

    @contextmanager
    def _watched(self, seen: dict[str, Any]) -> Iterator[None]:
        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            # A copy: blocks may write into what they are given.
            seen["hidden"] = _hidden(args, kwargs).detach().clone()

        def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            seen["outputs"] = len(output) if isinstance(output, tuple) else 0

        handles = [
            self.blocks[self.frozen].register_forward_pre_hook(before, with_kwargs=True),
            self.blocks[self.frozen - 1].register_forward_hook(after),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def _resumed(self, held: _Held) -> Iterator[None]:
        def shaped(hidden: Tensor) -> Any:
            return (hidden, *[None] * (held.outputs - 1)) if held.outputs else hidden

        def first(*args: Any, **kwargs: Any) -> Any:
            return shaped(held.hidden.clone())

        def later(*args: Any, **kwargs: Any) -> Any:
            return shaped(_hidden(args, kwargs))

        own = [block.__dict__.get("forward") for block in self.blocks[: self.frozen]]
        try:
            for number in range(self.frozen):
                self.blocks[number].forward = first if number == 0 else later
            yield
        finally:
            for block, forward in zip(self.blocks, own, strict=False):
                if forward is None:
                    block.__dict__.pop("forward", None)
                else:
                    block.forward = forward


def _hidden(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    hidden = args[0] if args else kwargs["hidden_states"]
    if not isinstance(hidden, torch.Tensor):
        raise TypeError("a decoder block is not given its hidden states first")
    return hidden


def _key(batch: Batch) -> tuple[Any, ...]:
    ids, mask = batch.input_ids.cpu(), batch.attention_mask.cpu()
    return tuple(ids.shape), ids.numpy().tobytes(), mask.numpy().tobytes()
