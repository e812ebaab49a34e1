"""Hidden states at the first edited block: computed once a text, since nothing below changes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ultraedit.encoding.batching import Batch
from ultraedit.forward.forward import forward
from ultraedit.linalg.streaming import is_streamed, resident

# Of hidden states: some 30,000 tokens at 7B's width in half precision.
PREFIX_BYTES = 2**28
# Edits that a run reads ahead: enough to fill large batches and to fetch a streamed block
# seldom, and few enough to fit.
LOOKAHEAD_EDITS = 1024

Text = tuple[int, ...]
Forward = Callable[..., Any]


class Prefix:
    """A bounded buffer of hidden states, and the model's own forward pass resumed from them.

    Frozen blocks are passed through rather than left out, so masks, position embeddings and
    settings per layer stay the model's business.

    Args:
        model: The decoder with its head.
        blocks: The decoder's blocks.
        frozen: How many of them come before the first edited one; at least one.
        most_bytes: Of hidden states that are held.
    """

    def __init__(
        self, model: nn.Module, blocks: Sequence[nn.Module], frozen: int, most_bytes: int
    ) -> None:
        self.model = model
        self.blocks = blocks
        self.frozen = frozen
        self.most_bytes = most_bytes
        self._held: OrderedDict[Text, Tensor] = OrderedDict()
        self._ahead: set[Text] = set()
        self._bytes = 0
        self._passing: dict[Text, Tensor] = {}
        self._outputs = 0
        self._token = 0

    @property
    def bytes(self) -> int:
        """What is held now."""
        return self._bytes

    def __contains__(self, text: Text) -> bool:
        return text in self._held

    def admit(self, texts: Iterable[Text]) -> list[Text]:
        """Which of these are to be computed: those not held, as many of the first as fit.

        Others that were held go, the oldest first, unless they were asked for ahead.
        """
        missing: list[Text] = []
        wanted: set[Text] = set()
        needed = 0
        evictable = self._bytes - sum(_size(self._held[text]) for text in self._ahead)
        for text in texts:
            if text in wanted:
                continue
            if text in self._held:
                self._held.move_to_end(text)
                evictable -= 0 if text in self._ahead else _size(self._held[text])
            elif self._bytes - evictable + needed + len(text) * self._token > self.most_bytes:
                break
            else:
                needed += len(text) * self._token
                missing.append(text)
            wanted.add(text)
        for text in list(self._held):
            if self._bytes + needed <= self.most_bytes:
                break
            if text not in self._ahead and text not in wanted:
                self._bytes -= _size(self._held.pop(text))
        return missing

    def hold(self, batches: Iterable[Batch], ahead: bool) -> None:
        """Run the frozen blocks over the batches and hold what they make of the texts.

        Args:
            batches: Texts that were admitted.
            ahead: Whether to hold them until `drop` names them.
        """
        batches = list(batches)
        streamed = any(is_streamed(block) for block in self.blocks[: self.frozen])
        for found in self._stream(batches) if streamed and batches else map(self._run, batches):
            for text, hidden in found.items():
                self._keep(text, hidden)
                if ahead:
                    self._ahead.add(text)

    def drop(self, texts: Iterable[Text]) -> None:
        """Let go of these texts, and of every one that was not asked for ahead."""
        for text in [*texts, *(set(self._held) - self._ahead)]:
            self._ahead.discard(text)
            hidden = self._held.pop(text, None)
            self._bytes -= 0 if hidden is None else _size(hidden)

    def forget(self) -> None:
        """Empty the buffer."""
        self._held.clear()
        self._ahead.clear()
        self._passing.clear()
        self._bytes = 0

    @contextmanager
    def resumed(self, batch: Batch, columns: slice) -> Iterator[None]:
        """Inside, one pass over `columns` of the batch begins at the first edited block.

        A batch that is not held whole is computed, and held if there is room; if there is
        none, until a pass over its last columns.
        """
        if any(text not in self._held and text not in self._passing for text in batch.texts):
            found = self._run(batch)
            self._passing |= found
            if self._bytes + sum(map(_size, found.values())) <= self.most_bytes:
                for text, hidden in found.items():
                    self._keep(text, hidden)
        held = {t: self._held[t] if t in self._held else self._passing[t] for t in batch.texts}
        some = held[batch.texts[0]]
        width = columns.stop - columns.start
        hidden = some.new_zeros(len(batch.texts), width, some.shape[1])
        for row, (text, start) in enumerate(zip(batch.texts, batch.starts, strict=True)):
            first = max(start, columns.start)
            end = min(start + len(text), columns.stop)
            into = hidden[row, first - columns.start : end - columns.start]
            into.copy_(held[text][first - start : end - start])
        if columns.stop == batch.width:
            self._passing.clear()
        with self._passed_through(hidden):
            yield

    def _keep(self, text: Text, hidden: Tensor) -> None:
        if text not in self._held:
            self._held[text] = hidden
            self._bytes += _size(hidden)

    @torch.no_grad()
    def _run(self, batch: Batch) -> dict[Text, Tensor]:
        """(tokens, width) hidden states of every text of the batch, padding left out."""
        reached: list[Tensor] = []

        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            reached.append(_hidden(args, kwargs))
            raise _Reached

        def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            self._outputs = len(output) if isinstance(output, tuple) else 0

        with ExitStack() as stack:
            first = self.blocks[self.frozen].register_forward_pre_hook(before, with_kwargs=True)
            stack.callback(first.remove)
            last = self.blocks[self.frozen - 1].register_forward_hook(after)
            stack.callback(last.remove)
            with suppress(_Reached):
                forward(self.model, batch)
        if not reached:
            raise LookupError("the first edited block is not reached as a block after others")
        return self._rows(batch, reached[0])

    def _rows(self, batch: Batch, hidden: Tensor) -> dict[Text, Tensor]:
        self._token = hidden.shape[-1] * hidden.element_size()
        rows = torch.split(
            hidden[batch.attention_mask.bool().to(hidden.device)],
            [len(text) for text in batch.texts],
        )
        # Copies: one text that stays would keep the whole batch.
        return {t: row.clone() for t, row in zip(batch.texts, rows, strict=True)}

    @torch.no_grad()
    def _stream(self, batches: Sequence[Batch]) -> Iterator[dict[Text, Tensor]]:
        """The same for many batches, block by block, so that each block is fetched once."""
        calls = [self._calls(batch) for batch in batches]
        for number, block in enumerate(self.blocks[: self.frozen]):
            with resident(block):
                for call in calls:
                    args, kwargs = call.rest[number]
                    output = block(call.hidden, *args, **kwargs)
                    call.hidden = output[0] if isinstance(output, tuple) else output
                    self._outputs = len(output) if isinstance(output, tuple) else 0
        for batch, call in zip(batches, calls, strict=True):
            yield self._rows(batch, call.hidden)

    def _calls(self, batch: Batch) -> _Calls:
        """What the model gives its frozen blocks, which depends on the batch's shape alone."""
        calls = _Calls()

        def recorded(*args: Any, **kwargs: Any) -> Any:
            hidden = _hidden(args, kwargs)
            if calls.hidden is None:
                calls.hidden = hidden
            kwargs.pop("hidden_states", None)
            calls.rest.append((args[1:], kwargs))
            if len(calls.rest) == self.frozen:
                raise _Reached
            return (hidden,) if self._outputs else hidden

        with self._replaced([recorded] * self.frozen), suppress(_Reached):
            forward(self.model, batch)
        return calls

    @contextmanager
    def _passed_through(self, hidden: Tensor) -> Iterator[None]:
        def shaped(hidden: Tensor) -> Any:
            return (hidden, *[None] * (self._outputs - 1)) if self._outputs else hidden

        def first(*args: Any, **kwargs: Any) -> Any:
            # A copy: blocks may write into what they are given.
            return shaped(hidden.clone())

        def later(*args: Any, **kwargs: Any) -> Any:
            return shaped(_hidden(args, kwargs))

        with self._replaced([first, *[later] * (self.frozen - 1)]):
            yield

    @contextmanager
    def _replaced(self, forwards: Sequence[Forward]) -> Iterator[None]:
        """Inside, the frozen blocks do this instead."""
        own = [block.__dict__.get("forward") for block in self.blocks[: self.frozen]]
        try:
            for block, other in zip(self.blocks, forwards, strict=False):
                block.forward = other
            yield
        finally:
            for block, before in zip(self.blocks, own, strict=False):
                if before is None:
                    block.__dict__.pop("forward", None)
                else:
                    block.forward = before


@dataclass
class _Calls:
    """Arguments of the frozen blocks in one pass, the hidden state apart."""

    hidden: Any = None
    rest: list[tuple[tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)


class _Reached(Exception):  # noqa: N818 - it ends a pass, nothing is wrong
    pass


def _hidden(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    hidden = args[0] if args else kwargs["hidden_states"]
    if not isinstance(hidden, torch.Tensor):
        raise TypeError("a decoder block is not given its hidden states first")
    return hidden


def _size(hidden: Tensor) -> int:
    return hidden.numel() * hidden.element_size()
