"""General ability of an edited model beside that of the unedited one."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ultraedit.ability.harness import BATCH_SIZE, Harness, check_batch_size, open_harness
from ultraedit.ability.pairing import paired_difference
from ultraedit.ability.report import AbilityReport, Row, Score
from ultraedit.editor import Editor
from ultraedit.progress import Progress, no_progress

PACKAGES = {"lm-eval": "lm_eval", "transformers": "transformers", "torch": "torch"}


class Edited(Protocol):
    """What is asked: an `Editor`, or anything like it."""

    @property
    def model(self) -> PreTrainedModel: ...

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase: ...

    @property
    def unedited(self) -> Callable[[], AbstractContextManager[object]] | None:
        """A context in which `model` is as before editing; None where it is not known."""


def measure(
    editor: Edited,
    tasks: Sequence[str] | Harness,
    *,
    data: str | Path | None = None,
    limit: int | None = None,
    shots: int | None = None,
    chat: bool = False,
    batch_size: int | str = BATCH_SIZE,
    before: Sequence[Score] | None = None,
    progress: Progress = no_progress,
) -> AbilityReport:
    """Run lm-eval on the edited and on the unedited model, over the same documents.

    The model is loaded once; its weights, and the process's seeds, environment and logging, are
    after it as they were before.

    Args:
        editor: The editor; see `Edited`.
        tasks: Names of tasks, or a harness that `open_harness` made; `data` and `shots` are
            its own then.
        data: A folder with `NAME.jsonl` for ready-made tasks, task files (YAML), or both.
        limit: The first so many documents of each task.
        shots: Solved examples in front of every document; None for each task's own number.
        chat: Wrap prompts in the chat template.
        batch_size: Texts in one pass, or `auto` on a GPU; 1 in any case where a method
            answers through side memories.
        before: The unedited model's scores, where they are known: from `Harness.score`, with
            the same limit, shots and chat.
        progress: Told what is done, and of how much.

    Returns:
        Both scores of every metric, with the mean difference paired by document and its
        normal 95% interval.

    Raises:
        InputError: lm-eval is not installed, a task is not known, or its data cannot be read.
        UltraEditError: the harness failed.
    """
    check_batch_size(batch_size, editor.model)
    if _routes(editor):
        # The harness pads without a mask, and a side memory would take padding for text.
        batch_size = 1
    harness = (
        tasks
        if isinstance(tasks, Harness)
        else open_harness(tasks, data=data, shots=shots, progress=progress)
    )

    def asked(label: str) -> list[Score]:
        def labelled(what: str, total: int | None) -> AbstractContextManager[Callable[[int], None]]:
            return progress(f"{label}: {what}", total)

        return harness.score(
            editor.model, editor.tokenizer,
            batch_size=batch_size, limit=limit, chat=chat, progress=labelled,
        )  # fmt: skip

    began = time.perf_counter()
    if before is None and editor.unedited is not None:
        with editor.unedited():
            before = asked("before")
    after = asked("after" if before is not None else "asking")
    return compare(harness, before, after, time.perf_counter() - began)


def compare(
    harness: Harness, before: Sequence[Score] | None, after: Sequence[Score], seconds: float = 0.0
) -> AbilityReport:
    """Two models' scores side by side.

    Args:
        harness: Which both were asked by.
        before: The unedited model's scores, or None.
        after: The edited model's.
        seconds: What they took.

    Raises:
        InputError: the two were not asked the same documents.
    """
    held = {score.key: score for score in before or ()}
    return AbilityReport(
        rows=tuple(_row(held.get(score.key), score) for score in after),
        sources=harness.sources,
        shots=harness.shots,
        seconds=seconds,
        versions={shown: version(package) for shown, package in PACKAGES.items()},
    )


def _routes(editor: Edited) -> bool:
    if isinstance(editor, Editor):
        return not editor.method.info.changes_weights
    return bool(getattr(editor, "routes", False))


def _row(before: Score | None, after: Score) -> Row:
    if before is None:
        return Row(after, None, None)
    if before.documents is None or after.documents is None:
        return Row(after, before.value, None)
    return Row(after, before.value, paired_difference(before.documents, after.documents))


@dataclass(frozen=True)
class Beside:
    """A model and what it was, where no `Editor` is at hand.

    Attributes:
        ask: The model that answers now; another one inside `unedited`.
        tokenizer: Of both.
        unedited: See `Edited`.
        routes: Whether each text is answered by the weights or by a side memory.
    """

    ask: Callable[[], PreTrainedModel]
    tokenizer: PreTrainedTokenizerBase
    unedited: Callable[[], AbstractContextManager[object]] | None
    routes: bool = False

    @property
    def model(self) -> PreTrainedModel:
        return self.ask()
