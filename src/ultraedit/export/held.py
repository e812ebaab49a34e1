"""How many edits hold with the weights of an export."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor

from ultraedit.editor import Editor
from ultraedit.encoding.tokenise import Encoded
from ultraedit.history.effect import edits_in_effect

# Weights by module, each (e, d); one at a time, since together they may be gigabytes.
Weights = Iterable[tuple[str, Tensor]]

MOST = 200
SEED = 0


class HeldEdits:
    """Asks the edits of a model with other weights in place of the edited ones.

    An edit holds if every token of its target is the likeliest: the greedy answer begins with it.

    Args:
        out: The edited model, whose journal names the edits; of more than `MOST` a sample is asked.

    Attributes:
        asked: How many edits are asked.
        learned: How many of them hold in the edited model itself.
        holding: How many of these held with the weights that were accepted last, or tried last
            where none were.
    """

    def __init__(self, out: Path) -> None:
        self._workbench = Editor.load(out).workbench
        records = edits_in_effect(out)
        if len(records) > MOST:
            records = random.Random(SEED).sample(records, MOST)
        texts = []
        for record in records:
            target = record.target if isinstance(record.target, str) else record.target[0]
            texts.append(self._workbench.encoder.encode(record.prompt, target))
        self.asked = len(texts)
        known = self._hold(texts)
        self._texts = [text for text, holds in zip(texts, known, strict=True) if holds]
        self.learned = self.holding = len(self._texts)

    def try_weights(self, weights: Weights) -> int:
        """How many of the learned edits hold with other weights; sets `holding`."""
        with torch.no_grad():
            for name, weight in weights:
                target = self._workbench.targets[name]
                # Linear maps hold (e, d), Conv1D (d, e).
                target.parameter.copy_(weight if target.transposed else weight.T)
        self.holding = sum(self._hold(self._texts))
        return self.holding

    def keeps(self, share: float) -> Callable[[Weights], bool]:
        """Whether so large a share of the learned edits holds with other weights.

        `holding` then is of the weights that were accepted last.
        """

        def enough(weights: Weights) -> bool:
            before = self.holding
            if self.try_weights(weights) >= share * self.learned:
                return True
            self.holding = before
            return False

        return enough

    def _hold(self, texts: list[Encoded]) -> list[bool]:
        scored = self._workbench.score(texts) if texts else []
        return [bool(one.correct.all()) for one in scored]

    def to_dict(self) -> dict[str, int]:
        """Plain values."""
        return {"asked": self.asked, "learned": self.learned, "holding": self.holding}
