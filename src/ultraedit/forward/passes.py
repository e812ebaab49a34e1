"""How a model is read: by the shortest way that its structure allows."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ultraedit.encoding.batching import Batch
from ultraedit.forward.forward import (
    SPLIT_TOKENS,
    Resumed,
    answer_logits,
    not_resumed,
    split_logits,
)
from ultraedit.forward.prefix import Prefix

log = logging.getLogger(__name__)

# Relative, in the norm of the logits: another structure is off by about one.
TOLERANCE = {torch.float64: 1e-3, torch.float32: 1e-3}
HALF_TOLERANCE = 0.1


class Passes:
    """Answer logits of one model, without running again what cannot have changed.

    Two short cuts, each of which a model may not allow: frozen blocks are run once a text
    (`Prefix`), and prompts are run without a graph (`split_logits`). Both are tried once
    against the model's plain pass; where one differs, it is given up with one log line.

    Args:
        model: A causal language model, in evaluation mode.
        prefix: Its frozen blocks; None where there are none.
        split: Whether prompts may be read apart from answers at all.
        split_tokens: Prompt tokens of a batch from which on they are.
    """

    def __init__(
        self,
        model: nn.Module,
        prefix: Prefix | None = None,
        split: bool = True,
        split_tokens: int = SPLIT_TOKENS,
    ) -> None:
        self.model = model
        self.prefix = prefix
        self.split = split
        self.split_tokens = split_tokens
        self.switch = _switch(model)
        self.checked = False

    def __call__(self, batch: Batch) -> Tensor:
        """(n, vocabulary) logits at the answer positions of the batch, row-major."""
        if self.first_column(batch):
            return split_logits(self.model, batch, self._resumed)
        return self.whole(batch)

    def first_column(self, batch: Batch) -> int:
        """The first of the batch that a call has a graph for: 0, or that of the first answer."""
        apart = (
            self.split
            and batch.width <= self.switch
            and batch.first_answer * len(batch.starts) >= self.split_tokens
        )
        return batch.first_answer if apart else 0

    def whole(self, batch: Batch) -> Tensor:
        """The same logits, prompts never apart from answers: all tokens in one pass."""
        if batch.width > self.switch:
            return answer_logits(self.model, batch)
        return answer_logits(self.model, batch, self._resumed)

    def drop(self, texts: Iterable[tuple[int, ...]]) -> None:
        """Let go of what was held of these texts."""
        if self.prefix is not None:
            self.prefix.drop(texts)

    def forget(self) -> None:
        """Let go of everything that is held."""
        if self.prefix is not None:
            self.prefix.forget()

    @torch.no_grad()
    def check(self, batches: Callable[[], Sequence[Batch]]) -> None:
        """Once: whether both short cuts lead where the plain pass does.

        Args:
            batches: A text, another, and both in two parts. The other comes between two passes
                over the same, so that nothing a block left behind can stand in for its result.
        """
        if self.checked or (self.prefix is None and not self.split):
            return
        one, other, both = batches()
        if self.prefix is not None:
            self.forget()
            reason = self._differs(one, other, answer_logits)
            self.forget()
            if reason:
                self.prefix = None
                log.warning("frozen blocks are run in every pass: %s", reason)
        if self.split:
            reason = self._differs(both, other, split_logits)
            self.forget()
            if reason:
                self.split = False
                log.warning("prompts are not read apart from their answers: %s", reason)
        # Only now: an interrupted check has found nothing out.
        self.checked = True

    def _differs(
        self, one: Batch, other: Batch, read: Callable[[nn.Module, Batch, Resumed], Tensor]
    ) -> str | None:
        plain = answer_logits(self.model, one)
        try:
            read(self.model, one, self._resumed)
            answer_logits(self.model, other)
            found = read(self.model, one, self._resumed)
        except (
            TypeError, ValueError, RuntimeError, AttributeError, LookupError, AssertionError,
        ) as error:  # fmt: skip
            if isinstance(error, torch.OutOfMemoryError):
                raise
            return f"the model does not allow it ({error})"
        limit = TOLERANCE.get(plain.dtype, HALF_TOLERANCE)
        if found.shape != plain.shape or not _near(found, plain, limit):
            return "its logits would not be the model's own"
        return None

    @property
    def _resumed(self) -> Resumed:
        return not_resumed if self.prefix is None else self.prefix.resumed


def _switch(model: nn.Module) -> float:
    """Up to where a model's rotary tables do not depend on the longest text of a pass."""
    config: Any = model.config
    config = config.get_text_config(decoder=True)
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [rope, *(kind for kind in rope.values() if isinstance(kind, dict))]
    limits = [
        kind.get("original_max_position_embeddings") or config.max_position_embeddings
        for kind in kinds
        if kind.get("rope_type") in ("dynamic", "longrope")
    ]
    return min(limits, default=math.inf)


def _near(found: Tensor, plain: Tensor, limit: float) -> bool:
    # What all logits of a row have in common decides nothing, and would drown the rest.
    plain, found = (rows.double() - rows.double().mean(1, keepdim=True) for rows in (plain, found))
    return bool((found - plain).norm() <= limit * plain.norm())
