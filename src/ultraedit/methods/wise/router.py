"""At inference: is this query about something that was edited, and which side memory knows it?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ultraedit.encoding.batching import Query
from ultraedit.methods.wise.scores import asked, scores
from ultraedit.methods.wise.shards import Shard

UNROUTED = -1


@dataclass
class Routing:
    """What became of the rows of a query.

    Attributes:
        routed: (b,) bool on the CPU, which rows a side memory answered; None before the pass.
    """

    routed: Tensor | None = None


@dataclass(frozen=True)
class Pass:
    """One pass of the model, as its caller began it.

    Attributes:
        rows: Texts.
        columns: Tokens of each, padding counted, that this pass reads.
        mask: (rows, columns) bool, tokens that are none of the padding; None where all are.
        goes_on: Whether earlier tokens of the same texts were read before, and kept.
    """

    rows: int
    columns: int
    mask: Tensor | None
    goes_on: bool

    @staticmethod
    def of(args: Sequence[Any], given: dict[str, Any]) -> Pass | None:
        """From the arguments of the model's forward; None where they name no tokens."""
        ids = args[0] if args else given.get("input_ids")
        ids = given.get("inputs_embeds") if ids is None else ids
        if ids is None:
            return None
        rows, columns = ids.shape[:2]
        cache = given.get("past_key_values")
        goes_on = cache is not None and cache.get_seq_length() > 0
        mask = given.get("attention_mask")
        if not isinstance(mask, torch.Tensor) or mask.shape != (rows, columns):
            mask = None
        return Pass(rows, columns, None if mask is None else mask.bool(), goes_on)


class Router:
    """Adds what a side memory changes, to the texts that it is about.

    A text is scored when it is first read: over its prompt where a `Query` says which tokens
    these are, and over all of its tokens otherwise. What is generated after it goes the same
    way. Not for several threads at once.

    Args:
        model: Whose forward passes are watched.
        module: The linear map that the side memories are copies of.
        ratio: A memory serves what scores above `ratio` of the least its own edits do.
    """

    def __init__(self, model: nn.Module, module: nn.Module, ratio: float) -> None:
        self.ratio = ratio
        self.memories: tuple[Shard, ...] = ()
        self.enabled = True
        self.asked = 0
        self.routed = 0
        self._query: Query | None = None
        self._routing = Routing()
        self._pass: Pass | None = None
        self._chosen = torch.empty(0, dtype=torch.int64)
        self._handles = [
            model.register_forward_pre_hook(self._begin, with_kwargs=True),
            model.register_forward_hook(self._end, always_call=True),
            module.register_forward_hook(self._answer),
        ]

    def remove(self) -> None:
        """Leave model and module as they were."""
        for handle in self._handles:
            handle.remove()

    @contextmanager
    def query(self, query: Query) -> Iterator[Routing]:
        """Inside, one text after another is asked as the query says."""
        self._query, self._routing = query, Routing()
        try:
            yield self._routing
        finally:
            self._query = None

    @contextmanager
    def bypassed(self) -> Iterator[None]:
        """Inside, every text is answered by the model itself."""
        before, self.enabled = self.enabled, False
        try:
            yield
        finally:
            self.enabled = before

    def _begin(self, model: nn.Module, args: Sequence[Any], given: dict[str, Any]) -> None:
        self._pass = Pass.of(args, given)

    def _end(self, model: nn.Module, args: Any, output: Any) -> None:
        self._pass = None

    def _answer(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if not self.enabled or self._pass is None or not any(m.edits for m in self.memories):
            return output
        now, inputs = self._pass, args[0]
        inputs = inputs.reshape(now.rows, -1, inputs.shape[-1])
        if not (now.goes_on and len(self._chosen) == now.rows):
            self._chosen = self._choose(inputs, now)
            self.asked += now.rows
            self.routed += int((self._chosen != UNROUTED).sum())
            self._routing.routed = (self._chosen != UNROUTED).cpu()
        found = output.reshape(now.rows, -1, output.shape[-1])
        for number in set(self._chosen.tolist()) - {UNROUTED}:
            rows = (self._chosen == number).nonzero()[:, 0]
            delta = self.memories[number].delta.to(inputs.dtype)
            found = found.index_add(0, rows, inputs[rows] @ delta)
        return found.reshape(output.shape)

    def _choose(self, inputs: Tensor, now: Pass) -> Tensor:
        """(b,) int64: of the memories whose edits score no more than the row, the most stirred."""
        mask = self._tokens(inputs, now)
        text = mask.nonzero()[:, 0]
        keys = inputs[mask]
        chosen = torch.full((now.rows,), UNROUTED, device=inputs.device)
        highest = torch.zeros(now.rows, device=inputs.device)
        for number, memory in enumerate(self.memories):
            found = scores(keys, text, now.rows, memory.delta)
            ours = (found > self.ratio * memory.least) & (found > highest)
            chosen[ours], highest[ours] = number, found[ours]
        return chosen

    def _tokens(self, inputs: Tensor, now: Pass) -> Tensor:
        """(b, t) bool: what of this pass is asked."""
        rows, columns = inputs.shape[:2]
        query = self._query
        if query is not None and query.attention_mask.shape == (rows, columns):
            return asked(query.attention_mask.bool(), query.prompt_end).to(inputs.device)
        mask = now.mask
        if mask is None or mask.shape != (rows, columns):
            mask = torch.ones(rows, columns, dtype=torch.bool)
        return asked(mask, torch.full((rows,), columns)).to(inputs.device)
