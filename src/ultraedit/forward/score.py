"""Loss and prediction at every target token, given the tokens before it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ultraedit.encoding.batching import Batch, Query
from ultraedit.forward.forward import Read, answer_logits
from ultraedit.forward.loss import token_losses

QueryContext = Callable[[Query], AbstractContextManager[Any]]


def no_routing(query: Query) -> AbstractContextManager[Any]:
    """The query context of a method that changes weights: nothing to enter."""
    return nullcontext()


@dataclass(frozen=True)
class Scored:
    """One text's target tokens under a model, on the CPU.

    Attributes:
        losses: (tokens,) float32 cross-entropy.
        correct: (tokens,) bool, whether the target token is the most likely one.
        counted: How many of the tokens published metrics count.
        routed: Whether a side memory answered, of a method that routes.
    """

    losses: Tensor
    correct: Tensor
    counted: int
    routed: bool | None = None

    @property
    def token_accuracy(self) -> float:
        return float(self.correct[: self.counted].float().mean())

    @property
    def exact(self) -> bool:
        return bool(self.correct[: self.counted].all())


@torch.no_grad()
def score(
    model: nn.Module,
    batches: Iterable[Batch],
    query: QueryContext = no_routing,
    read: Read | None = None,
) -> list[Scored]:
    """Score every text of the batches, in the order of `Batch.index`.

    Args:
        model: A causal language model, in evaluation mode.
        batches: Padded texts.
        query: Entered around every batch.
        read: How the model is read, where not in one pass of the whole; see `forward.passes`.
    """
    found: dict[int, Scored] = {}
    read = read or partial(answer_logits, model)
    for batch in batches:
        with query(batch.query) as routing:
            logits = read(batch)
        routed = getattr(routing, "routed", None)
        routed = [None] * len(batch.starts) if routed is None else routed.tolist()
        labels = batch.labels[batch.answer_mask].to(logits.device)
        losses, correct = (found.cpu() for found in token_losses(logits, labels))
        sizes = batch.answer_mask.sum(1).tolist()
        counted = batch.scored_mask.sum(1).tolist()
        parts = zip(torch.split(losses, sizes), torch.split(correct, sizes), counted, strict=True)
        for index, (loss, right, count), row in zip(
            batch.index.tolist(), parts, routed, strict=True
        ):
            found[index] = Scored(loss, right, count, row)
    return [found[index] for index in sorted(found)]
