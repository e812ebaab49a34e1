"""Which turns and edits are in effect, given everything that happened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ultraedit.errors import InputError
from ultraedit.storage import EditRecord, Head, Journal, Layout, Outline, open_journal


@dataclass(frozen=True)
class InEffect:
    """What makes up a state.

    Attributes:
        turns: Entries of the turns in effect, oldest first.
        removed: Entry and place of the edits that were taken out of them.
        entries: Every entry on the way to the state, undos of edits and gaps included.
    """

    turns: tuple[int, ...]
    removed: frozenset[tuple[int, int]]
    entries: tuple[int, ...]


def in_effect(outline: Mapping[int, Outline], number: int) -> InEffect:
    """Follow the history back from the state after entry `number`.

    An undo goes on where the state that it brought back came from.
    """
    turns: list[int] = []
    removed: set[tuple[int, int]] = set()
    passed: list[int] = []
    while number > 0:
        entry = outline[number]
        if entry.kind == "undo":
            assert entry.of is not None
            number = entry.of
            continue
        passed.append(number)
        if entry.kind == "turn":
            turns.append(number)
        elif entry.kind == "undo-edit":
            assert entry.of is not None
            assert entry.place is not None
            removed.add((entry.of, entry.place))
        number -= 1
    return InEffect(tuple(reversed(turns)), frozenset(removed), tuple(reversed(passed)))


def edits_in_effect(out: Path, number: int | None = None) -> list[EditRecord]:
    """The edits that make up a state, oldest first; none where no journal says so.

    Args:
        out: An edited model.
        number: The entry after which; the last one if it is None.

    Raises:
        InputError: there is no such entry.
    """
    if not Layout(out).journal.is_file():
        return []
    with open_journal(out) as journal:
        number = journal.head().number if number is None else number
        outline = journal.outline()
        if number not in outline:
            raise InputError(f"{out} has no turn {number}")
        effect = in_effect(outline, number)
        return [
            record
            for turn in effect.turns
            for place, record in enumerate(journal.entry(turn).records)
            if (turn, place) not in effect.removed
        ]


def locate(journal: Journal, head: Head, edit: str, turn: int | None) -> tuple[int, int]:
    """Entry and place of the newest edit in effect with that id.

    Raises:
        InputError: there is none.
    """
    effect = in_effect(journal.outline(), head.number)
    all_found = journal.find(edit)
    found = [
        spot
        for spot in all_found
        if spot[0] in effect.turns and spot not in effect.removed and turn in (None, spot[0])
    ]
    if found:
        return found[-1]
    if all_found:
        raise InputError(f"edit {edit} is not in effect{'' if turn is None else ' in that turn'}")
    raise InputError(f"there is no edit with id {edit}; `ultraedit log --edits` lists them")
