"""What a run says of how far it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol


class RunProgress(Protocol):
    """Told so many more `edits` or `cases` are done; or, with a total, how far a part of it is."""

    def __call__(self, what: str, count: int, total: int | None = None) -> None: ...


def silent(what: str, count: int, total: int | None = None) -> None:
    """A run that nobody watches."""


@contextmanager
def part_progress(
    on_progress: RunProgress, what: str, total: int
) -> Iterator[Callable[[int], None]]:
    """Tells of a part of a run as a workbench's progress: what is done so far, and when all is."""
    done = 0

    def advance(steps: int) -> None:
        nonlocal done
        done = min(done + steps, total)
        if done < total:
            on_progress(what, done, total)

    on_progress(what, 0, total)
    yield advance
    on_progress(what, total, total)
