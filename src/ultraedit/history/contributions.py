"""Everything that was added to an edited model's weights, where all of it is kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from ultraedit.history.effect import in_effect
from ultraedit.linalg.shift import Shift
from ultraedit.storage import Layout, open_journal, read_factors


def contributions(out: Path) -> Iterator[Mapping[str, Shift]] | None:
    """The shifts in effect by module name, oldest first; undos of edits are among them.

    Read one turn at a time, as they are asked for.

    Returns:
        None where there is no journal, or it does not keep all of them.

    Raises:
        InputError: the journal is damaged; while reading, a file of the history is.
    """
    layout = Layout(out)
    if not layout.journal.is_file():
        return None
    with open_journal(out) as journal:
        head, outline = journal.head(), journal.outline()
    entries = in_effect(outline, head.number).entries
    if not all(n > head.factors_after and outline[n].has_factors for n in entries):
        return None
    return _read(out, entries)


def _read(out: Path, entries: tuple[int, ...]) -> Iterator[Mapping[str, Shift]]:
    for number in entries:
        with open_journal(out) as journal:
            record = journal.entry(number).factors
        if record is not None:
            yield from read_factors(Layout(out).history, record)[0]
