"""Which shifts and snapshots a bounded history keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ultraedit.errors import InputError
from ultraedit.storage.journal import Head, Outline

KEEP_ALL = -1


def parse_history(value: str | int) -> int:
    """`full`, `none` or a number of entries as a count; `KEEP_ALL` for `full`.

    Raises:
        InputError: it is none of these.
    """
    named = {"full": KEEP_ALL, "none": 0}
    if value in named:
        return named[str(value)]
    try:
        count = int(value)
    except ValueError:
        count = -1
    if count < 0:
        raise InputError(f"history is full, none or a number of turns, not {value!r}")
    return count


def pruned(
    last: int, snapshots: Sequence[int], factors_after: int, keep: int
) -> tuple[int, tuple[int, ...]]:
    """What is kept after entry `last`.

    A state is rebuilt from the last snapshot before it and the shifts in between, so the
    oldest state that must stay keeps the snapshot it is rebuilt from.

    Args:
        last: The last entry.
        snapshots: Entries that have one; the first is 0, the unedited model.
        factors_after: What was kept so far.
        keep: How many entries must stay undoable; `KEEP_ALL` for all.

    Returns:
        Shifts are kept of entries after this one; snapshots of these entries.
    """
    if keep == KEEP_ALL:
        return factors_after, tuple(snapshots)
    oldest = max((s for s in snapshots if s <= last - keep), default=0)
    if keep == 0:
        return last, (0,)
    return max(oldest, factors_after), (0, *(s for s in snapshots if s >= max(oldest, 1)))


def rebuildable(head: Head, outline: Mapping[int, Outline]) -> set[int]:
    """The entries whose state can be rebuilt from what is kept."""
    found: set[int] = set()
    for number, entry in sorted(outline.items()):
        from_before = number - 1 in found and entry.has_factors and number > head.factors_after
        if number in head.snapshots or from_before:
            found.add(number)
    return found
