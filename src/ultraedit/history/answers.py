"""What a state of a model says to the prompts of edits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ultraedit.evaluation.evaluate import ANSWER_TOKENS
from ultraedit.storage import EditRecord

if TYPE_CHECKING:
    from ultraedit.workbench import ModelWorkbench


@dataclass(frozen=True)
class Answer:
    """What the model says to an edit's prompt: free, and whether every target token leads."""

    text: str
    learned: bool


def answers(workbench: ModelWorkbench, records: Sequence[EditRecord]) -> list[Answer]:
    """The answers of the model as it is now, in the order of the edits.

    Raises:
        InputError: one is too long for the model.
    """
    if not records:
        return []
    texts = []
    for record in records:
        target = record.target if isinstance(record.target, str) else record.target[0]
        texts.append(workbench.encoder.encode(record.prompt, target))
        workbench.check_length(texts[-1], f"fact {record.id}")
    prompts = [workbench.encoder.prompt_ids(record.prompt) for record in records]
    said = workbench.answers(prompts, ANSWER_TOKENS)
    scored = workbench.score(texts)
    return [
        Answer(free.text, bool(one.correct.all())) for free, one in zip(said, scored, strict=True)
    ]
