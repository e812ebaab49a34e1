"""Passes of a model over a batch: logits everywhere, or at the answers alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from ultraedit.encoding.batching import Batch

# Logits (n, vocabulary) at the answer tokens of a batch, row-major.
Read = Callable[[Batch], Tensor]
# Entered around one pass of the model over some columns of a batch.
Resumed = Callable[[Batch, slice], AbstractContextManager[Any]]

# Prompts of fewer tokens are read together with their answers: reading all weights a second
# time costs more than their part of the graph.
SPLIT_TOKENS = 128


def not_resumed(batch: Batch, columns: slice) -> AbstractContextManager[None]:
    """The pass goes through the whole model."""
    return nullcontext()


def forward(model: nn.Module, batch: Batch) -> Tensor:
    """(b, t, vocabulary) logits at every position.

    Position ids are always given: models with learned positions count padding otherwise.
    """
    return _logits(model, batch, slice(0, batch.width))


def answer_logits(model: nn.Module, batch: Batch, resumed: Resumed = not_resumed) -> Tensor:
    """(n, vocabulary) logits at the answer positions of the batch, row-major.

    The head, often the widest map there is, sees these rows and no others.
    """
    columns = slice(0, batch.width)
    with resumed(batch, columns):
        return _answer_rows(model, batch, columns)


def split_logits(model: nn.Module, batch: Batch, resumed: Resumed = not_resumed) -> Tensor:
    """The same, in two passes: prompts without a graph, then the answer rows.

    An answer depends on its prompt through keys and values alone, and no gradient is wanted
    at prompt positions. The first pass ends once the last block has its keys and values.
    """
    if not batch.first_answer:
        return answer_logits(model, batch, resumed)
    caches = [_read_prompts(model, part, resumed) for part in batch.prompts()]
    cache = _joined(caches, batch)
    after = slice(batch.first_answer, batch.width)
    with resumed(batch, after):
        return _answer_rows(model, batch, after, cache)


class _PromptsRead(Exception):  # noqa: N818 - it ends a pass, nothing is wrong
    pass


class _PromptCache(DynamicCache):
    """Keys and values of the prompts; the pass that fills it ends at block `last`."""

    def __init__(self, last: int) -> None:
        super().__init__()
        self.last = last
        self.filling = True

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *rest: Any, **more: Any) -> Any:
        found = super().update(keys, values, layer_idx, *rest, **more)
        if self.filling and layer_idx == self.last:
            raise _PromptsRead
        return found


@torch.no_grad()
def _read_prompts(model: nn.Module, part: Batch, resumed: Resumed) -> _PromptCache | None:
    """What the blocks keep of the prompts of a part; None where they are of one token."""
    if not part.first_answer:
        return None
    before = slice(0, part.first_answer)
    cache = _PromptCache(last=_blocks(model) - 1)
    with resumed(part, before), _head_rows(model, _none_of), suppress(_PromptsRead):
        _logits(model, part, before, cache)
    return cache


def _joined(caches: Sequence[_PromptCache | None], batch: Batch) -> _PromptCache:
    """One cache of all parts, every prompt ending before the first answer."""
    rows, columns = len(batch.starts), batch.first_answer
    whole = next(cache for cache in caches if cache is not None)
    for number, layer in enumerate(whole.layers):
        if not layer.is_initialized:
            # Passed by. Masks are made from the first layer's length all the same.
            layer.keys = layer.values = torch.zeros(1).expand(rows, 1, columns, 1)
            layer.is_initialized = True
        elif len(caches) > 1:
            own = [None if cache is None else cache.layers[number] for cache in caches]
            for what in ("keys", "values"):
                stacked = _stacked(
                    [None if one is None else getattr(one, what) for one in own], batch
                )
                for one in own:
                    if one is not None:
                        setattr(one, what, None)
                setattr(layer, what, stacked)
    whole.filling = False
    return whole


def _stacked(parts: Sequence[Tensor | None], batch: Batch) -> Tensor:
    """(b, heads, first answer, head size): each part's prompts at the right end."""
    some = next(part for part in parts if part is not None)
    stacked = some.new_zeros(len(batch.starts), some.shape[1], batch.first_answer, some.shape[3])
    for into, part in zip(torch.split(stacked, list(batch.parts)), parts, strict=True):
        if part is not None:
            into[:, :, -part.shape[2] :] = part
    return stacked


def _blocks(model: nn.Module) -> int:
    config: Any = model.config
    return int(config.get_text_config(decoder=True).num_hidden_layers)


def cache_argument(model: nn.Module) -> str:
    """What the model's forward pass calls its cache: transformers renamed it."""
    return "cache" if "cache" in signature(model.forward).parameters else "past_key_values"


def _logits(
    model: nn.Module,
    batch: Batch,
    columns: slice,
    cache: DynamicCache | None = None,
    **options: Any,
) -> Tensor:
    logits: Tensor = model(
        input_ids=batch.input_ids[:, columns],
        attention_mask=batch.attention_mask[:, : columns.stop],
        position_ids=batch.position_ids[:, columns],
        use_cache=cache is not None,
        **{cache_argument(model): cache},
        **options,
    ).logits
    return logits


def _answer_rows(
    model: nn.Module, batch: Batch, columns: slice, cache: DynamicCache | None = None
) -> Tensor:
    chosen = False

    def choose(hidden: Tensor) -> Tensor:
        nonlocal chosen
        chosen = True
        rows = batch.answer_mask[:, -hidden.shape[1] :].to(hidden.device)
        return hidden[rows].unsqueeze(0)

    keep = batch.logits_to_keep
    with _head_rows(model, choose):
        logits = _logits(model, batch, columns, cache, logits_to_keep=keep)
    if chosen:
        # Its backward pass is a view, which that of an index is not.
        return logits.squeeze(0)
    mask = batch.answer_mask[:, -keep:].to(logits.device)
    return logits[:, -keep:][mask]


def _none_of(hidden: Tensor) -> Tensor:
    return hidden[:, :0]


def _head_rows(model: nn.Module, choose: Callable[[Tensor], Tensor]) -> ExitStack:
    """Inside, the head is given what `choose` takes of the last hidden states (b, t, width)."""

    def hook(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        return (choose(args[0]), *args[1:]) if args[0].dim() == 3 else None

    stack = ExitStack()
    head: nn.Module | None = getattr(model, "get_output_embeddings", lambda: None)()
    if head is not None:
        stack.callback(head.register_forward_pre_hook(hook).remove)
    return stack
