"""Routing at inference: which texts a side memory answers, decided once for their cache."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ultraedit.encoding.batching import Query
from ultraedit.errors import InputError

UNROUTED = -1
# What transformers calls what it keeps of earlier tokens.
CACHES = ("cache", "past_key_values", "cache_params")


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
        cache: What holds earlier tokens of the same texts, or will; None where nothing does.
        goes_on: Whether there are such tokens.
    """

    rows: int
    columns: int
    mask: Tensor | None
    cache: object | None
    goes_on: bool

    @staticmethod
    def of(given: Mapping[str, Any]) -> Pass | None:
        """From the arguments of the model's forward by name; None where they name no tokens."""
        ids = given.get("input_ids")
        ids = given.get("inputs_embeds") if ids is None else ids
        if ids is None:
            return None
        rows, columns = ids.shape[:2]
        cache = next((given[name] for name in CACHES if _is_own(given.get(name))), None)
        length = getattr(cache, "get_seq_length", None)
        # A recurrent state says nothing of its length: one token at a time goes on.
        goes_on = cache is not None and (length() > 0 if length else columns == 1)
        return Pass(
            rows, columns, _flat(given.get("attention_mask"), rows, columns), cache, goes_on
        )


def _is_own(cache: object) -> bool:
    """Whether the object can be a key of a weak dictionary; lists and tuples cannot."""
    kind = type(cache)
    return cache is not None and kind.__weakrefoffset__ > 0 and kind.__hash__ is not None


def _flat(mask: object, rows: int, columns: int) -> Tensor | None:
    """(rows, columns) bool of a mask, also of one by rows, heads, queries and keys."""
    if not isinstance(mask, torch.Tensor):
        return None
    if mask.dim() == 4:
        # What the last query may look at.
        last = mask[:, 0, -1, :columns]
        mask = last if last.dtype == torch.bool else last >= 0
    return mask.bool() if mask.shape == (rows, columns) else None


class SideMemory(Protocol):
    """What a router asks."""

    def choose(self, inputs: Tensor, asked: Tensor) -> Tensor:
        """(b,) int64, which entry answers each text; `UNROUTED` for none.

        Args:
            inputs: (b, t, d) of the routed module.
            asked: (b, t) bool, the tokens of each text that it is judged by.
        """
        ...

    def answer(self, entry: int, inputs: Tensor, outputs: Tensor) -> Tensor:
        """(n, t, e) outputs of the module for texts that an entry answers.

        Args:
            entry: Which.
            inputs: (n, t, d) of the module.
            outputs: (n, t, e), the module's own.
        """
        ...


def asked(mask: Tensor, ends: Tensor) -> Tensor:
    """(b, t) bool: the tokens whose activations are looked at.

    A text's first token is no more this text's than any other's, and is left out where there
    are others.

    Args:
        mask: (b, t) bool, tokens that are none of the padding.
        ends: (b,) the last column of each row that counts.
    """
    columns = torch.arange(mask.shape[1], device=mask.device)
    own = mask & (columns[None, :] <= ends.to(mask.device)[:, None])
    first = own & (own.cumsum(1) == 1)
    return own & (~first | (own.sum(1, keepdim=True) == 1))


class Router:
    """Lets a side memory answer the texts that it is about.

    The memory chooses when a text is first read: by its prompt where a `Query` says which tokens
    these are, and over all of its tokens otherwise. What is generated after it, token by token
    from the same cache, goes the same way; several tokens more are another question. Without a
    cache, or with one that is a bare list, every pass is a question outside of a `Query`. Not for
    several threads at once.

    Args:
        model: Whose forward passes are watched.
        module: Whose outputs the side memory may replace.

    Raises:
        InputError: the module has a router already.
    """

    def __init__(self, model: nn.Module, module: nn.Module) -> None:
        hooks = module._forward_hooks.values()
        if any(isinstance(getattr(hook, "__self__", None), Router) for hook in hooks):
            raise InputError(
                "another editor's side memory is attached to this model; take it off with"
                " editor.method.detach() first"
            )
        self.enabled = True
        self.asked = 0
        self.routed = 0
        self.memory: SideMemory | None = None
        self._names = list(signature(model.forward).parameters)
        self._query: Query | None = None
        self._routing = Routing()
        self._pass: Pass | None = None
        self._first: Tensor | None = None
        self._by_cache: WeakKeyDictionary[object, Tensor] = WeakKeyDictionary()
        self._handles = [
            model.register_forward_pre_hook(self._begin, with_kwargs=True),
            model.register_forward_hook(self._end, always_call=True),
            module.register_forward_hook(self._answer),
        ]

    def serve(self, memory: SideMemory | None) -> None:
        """Answer through this memory from now on; what was decided before is forgotten."""
        self.memory = memory
        self._by_cache.clear()

    def remove(self) -> None:
        """Leave model and module as they were."""
        for handle in self._handles:
            handle.remove()

    @contextmanager
    def query(self, query: Query) -> Iterator[Routing]:
        """Inside, one question is asked, in one pass or token by token."""
        self._query, self._routing, self._first = query, Routing(), None
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
        self._pass = Pass.of({**dict(zip(self._names, args, strict=False)), **given})

    def _end(self, model: nn.Module, args: Any, output: Any) -> None:
        self._pass = None

    def _answer(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if not self.enabled or self._pass is None or self.memory is None:
            return output
        now, inputs = self._pass, args[0]
        inputs = inputs.reshape(now.rows, -1, inputs.shape[-1])
        chosen = self._decided(now)
        if chosen is None:
            chosen = self.memory.choose(inputs, self._asked(inputs, now))
            self._remember(now, chosen)
        found = output.reshape(now.rows, -1, output.shape[-1])
        for number in set(chosen.tolist()) - {UNROUTED}:
            rows = (chosen == number).nonzero()[:, 0]
            answered = self.memory.answer(number, inputs[rows], found[rows])
            found = found.index_copy(0, rows, answered.to(found.dtype))
        return found.reshape(output.shape)

    def _decided(self, now: Pass) -> Tensor | None:
        """(b,) which way these texts go, where that was decided when they began."""
        if self._query is not None:
            before = self._first
        elif now.goes_on and now.columns == 1:
            before = self._by_cache.get(now.cache)
        else:
            before = None
        return before if before is not None and len(before) == now.rows else None

    def _remember(self, now: Pass, chosen: Tensor) -> None:
        self.asked += now.rows
        self.routed += int((chosen != UNROUTED).sum())
        self._first = chosen
        self._routing.routed = (chosen != UNROUTED).cpu()
        if now.cache is not None:
            self._by_cache[now.cache] = chosen

    def _asked(self, inputs: Tensor, now: Pass) -> Tensor:
        """(b, t) bool: what of this pass is asked."""
        rows, columns = inputs.shape[:2]
        query = self._query
        if query is not None and query.attention_mask.shape == (rows, columns):
            return asked(query.attention_mask.bool(), query.prompt_end).to(inputs.device)
        mask = now.mask
        if mask is None or mask.shape != (rows, columns):
            mask = torch.ones(rows, columns, dtype=torch.bool)
        return asked(mask, torch.full((rows,), columns)).to(inputs.device)
