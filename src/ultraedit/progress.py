"""Progress bars as the library sees them; the command line draws them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

# Called with the number of steps just done.
Advance = Callable[[int], None]
# `with progress("drawing text", 40) as advance: advance(1)`; the total is None if it is unknown.
Progress = Callable[[str, int | None], AbstractContextManager[Advance]]


def no_progress(what: str, total: int | None) -> AbstractContextManager[Advance]:
    """Shows nothing."""
    return nullcontext(lambda steps: None)
