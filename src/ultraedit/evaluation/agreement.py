"""Whether an edited model still answers as the unedited one did."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from itertools import islice

from ultraedit.errors import InputError
from ultraedit.evaluation.evaluate import ANSWER_TOKENS, CHUNK
from ultraedit.workbench import ModelWorkbench


@dataclass(frozen=True)
class Change:
    """A prompt that the edited model answers differently."""

    id: str
    prompt: str
    before: str
    after: str

    def to_dict(self) -> dict[str, str]:
        return asdict(self)


@dataclass(frozen=True)
class Agreement:
    """How many prompts were asked, and which free answers changed."""

    count: int
    changed: tuple[Change, ...]

    @property
    def share(self) -> float:
        return (self.count - len(self.changed)) / self.count


def agreement(
    workbench: ModelWorkbench,
    prompts: Iterable[tuple[str, str]],
    *,
    unedited: Callable[[], AbstractContextManager[object]],
    answer_tokens: int = ANSWER_TOKENS,
) -> Agreement:
    """Ask (id, prompt) pairs of both states and compare the greedy answers, token by token.

    Raises:
        InputError: no prompts.
    """
    iterator = iter(prompts)
    count = 0
    changed: list[Change] = []
    while chunk := list(islice(iterator, CHUNK)):
        ids = [workbench.encoder.prompt_ids(prompt) for _, prompt in chunk]

        with unedited():
            before = workbench.answers(ids, answer_tokens)
        after = workbench.answers(ids, answer_tokens)
        for (name, prompt), old, new in zip(chunk, before, after, strict=True):
            if old.ids != new.ids:
                changed.append(Change(name, prompt, old.text, new.text))
        count += len(chunk)
    if not count:
        raise InputError("there are no probes to check")
    return Agreement(count, tuple(changed))
