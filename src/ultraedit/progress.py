"""How long work says how far it is."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

# Told how many more steps are done.
Advance = Callable[[int], None]
# `with progress("drawing texts", 40) as advance: ... advance(1)`; None where the end is unknown.
Progress = Callable[[str, int | None], AbstractContextManager[Advance]]


def no_progress(what: str, total: int | None) -> AbstractContextManager[Advance]:
    """Shows nothing."""
    return nullcontext(lambda steps: None)
