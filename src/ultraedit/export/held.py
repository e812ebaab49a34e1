"""How many edits hold with the weights of an export."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ultraedit.history.answers import answers
from ultraedit.history.effect import edits_in_effect

if TYPE_CHECKING:
    from ultraedit.editor import Editor

MOST = 200
SEED = 0


class HeldEdits:
    """Asks the edits of a model with other weights in place of the edited ones.

    Args:
        editor: Of the edited model; its weights are not restored.
        out: Its folder, whose journal names the edits; of more than `MOST` a sample is asked.

    Attributes:
        asked: How many edits are asked.
        learned: How many of them hold in the edited model itself.
    """

    def __init__(self, editor: Editor, out: Path) -> None:
        self.workbench = editor.workbench
        records = edits_in_effect(out)
        if len(records) > MOST:
            records = random.Random(SEED).sample(records, MOST)
        self.asked = len(records)
        found = answers(self.workbench, records)
        self._records = [record for record, one in zip(records, found, strict=True) if one.learned]
        self.learned = len(self._records)

    def holding(self, weights: Mapping[str, Tensor]) -> int:
        """How many of the learned edits hold with other weights.

        Args:
            weights: Module -> (e, d).
        """
        if not self._records:
            return 0
        with torch.no_grad():
            for name, weight in weights.items():
                target = self.workbench.targets[name]
                # Linear maps hold (e, d), Conv1D (d, e).
                target.parameter.copy_(weight if target.transposed else weight.T)
        # What was held of the frozen blocks does not change: these weights are above them.
        return sum(one.learned for one in answers(self.workbench, self._records))
