"""Turns that were made and not saved yet, as the journal will have them."""

from __future__ import annotations

import getpass
import socket
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ultraedit.linalg.shift import Dense, Shift
from ultraedit.records import Turn, check_text
from ultraedit.storage import KEEP_ALL, Change, EditRecord, Entry, Layout, Update, now

Passes = Sequence[Mapping[str, Shift]]

# However many turns are made without saving, no more than this and the newest of them is kept
# for the journal.
MOST_BYTES = 2**30
SNAPSHOT_EVERY = 50


def this_user() -> str:
    """Who runs this process, as far as the system knows."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


class Moment:
    """Identifies one state of the editor. The number of turns does not: an undo brings it back."""


@dataclass(frozen=True)
class Recorded:
    """A folder's journal when this editor last read or wrote it, and what it was the state of."""

    digest: str
    moment: Moment


class Pending:
    """Remembers turns until a save writes them; bounded, the oldest are forgotten first.

    A forgotten turn's edits stay in the weights; the journal shows a gap.

    Args:
        author: Who makes the edits.
        keep: How many entries can be undone; see `storage.parse_history`.
        snapshot_every: Entries from one snapshot to the next.
        initial: The method's state before any edit.
        active: False remembers nothing.

    Raises:
        InputError: the author is not text.
    """

    def __init__(
        self,
        author: str | None = None,
        keep: int = KEEP_ALL,
        snapshot_every: int = SNAPSHOT_EVERY,
        initial: Mapping[str, Tensor] | None = None,
        active: bool = True,
    ) -> None:
        self.author = author or this_user()
        check_text(self.author, "author")
        self.keep = keep
        self.snapshot_every = snapshot_every
        self.initial = dict(initial or {})
        self.active = active
        self.changes: deque[Change] = deque()
        self.recorded: dict[Path, Recorded] = {}
        self.latest: Path | None = None
        self.now = self._begins = self._start = Moment()
        self._bytes = 0

    def add(
        self,
        turn: Turn,
        passes: Passes,
        state: Mapping[str, Tensor],
        *,
        edits: int,
        device: str,
        run: Mapping[str, Any] | None,
        note: Mapping[str, Any] | None = None,
    ) -> None:
        """Remember a turn.

        Args:
            turn: What was done.
            passes: The shifts as they were applied, on the CPU.
            state: What the method records of the turn.
            edits: Edits in effect after it.
            device: The kind of device the shifts were added on.
            run: How far the file of the run was read.
            note: What the caller keeps with it.
        """
        self.now = Moment()
        if not self.active:
            self._begins = self.now
            return
        entry = Entry(
            kind="turn", time=now(), author=self.author, turns=turn.index + 1, edits=edits,
            passes=turn.passes, seconds=round(turn.seconds, 3), device=device, run=run,
            note=note,
            records=tuple(
                EditRecord(edit.id or "", edit.prompt, edit.target, edit.subject, learned)
                for edit, learned in zip(
                    turn.edits, turn.learned or [None] * len(turn.edits), strict=True
                )
            ),
        )  # fmt: skip
        kept = self.keep != 0
        change = Change(
            entry,
            [dict(one) for one in passes] if kept else None,
            {key: tensor.cpu() for key, tensor in state.items()} if kept else None,
        )
        self.changes.append(change)
        self._bytes += _size(change)
        self._forget()

    def update(
        self, folder: Path, turns: int, edits: int, about: Mapping[str, Any], replayable: bool
    ) -> Update:
        """What saving into `folder` adds to its journal.

        Args:
            folder: Resolved.
            turns: Turns in effect now.
            edits: Edits in effect now.
            about: For the start of a new journal.
            replayable: See `Update`.
        """
        before = self.recorded.get(folder) if _has_journal(folder) else None
        inherit = None
        if before is None and self.latest not in (None, folder) and _has_journal(self.latest):
            assert self.latest is not None
            inherit, before = self.latest, self.recorded[self.latest]
        changes = list(self.changes)
        if self._begins is not (before.moment if before else self._start):
            if changes:
                first = changes[0].entry
                turns, edits = first.turns - 1, first.edits - len(first.records)
            gap = Entry("gap", now(), self.author, turns, edits)
            changes.insert(0, Change(gap, None, None))
        return Update(
            changes=changes,
            author=self.author,
            initial=self.initial,
            about=about,
            keep=self.keep,
            snapshot_every=self.snapshot_every,
            follows=before.digest if before else None,
            inherit=inherit,
            replayable=replayable,
        )

    def saved(self, folder: Path, digest: str) -> None:
        """Everything up to now is in the journal of `folder`."""
        self.changes.clear()
        self._bytes = 0
        self._begins = self.now
        self.recorded[folder] = Recorded(digest, self.now)
        self.latest = folder

    def moved(self) -> None:
        """The editor is in another state, by other means than a turn."""
        self.now = Moment()

    def forget(self) -> None:
        """The editor comes from a state that no journal knows."""
        self.now = self._begins = Moment()

    def is_saved(self, folder: Path) -> bool:
        """Whether nothing has happened since `folder` was read or written."""
        return folder in self.recorded and self.recorded[folder].moment is self.now

    def _forget(self) -> None:
        for place, change in enumerate(list(self.changes)[:-1]):
            if self._bytes <= MOST_BYTES:
                return
            if change.shifts is not None:
                self._bytes -= _size(change)
                self.changes[place] = replace(change, shifts=None, state=None)
                self._bytes += _size(self.changes[place])
        while self._bytes > MOST_BYTES and len(self.changes) > 1:
            self._bytes -= _size(self.changes.popleft())
            self._begins = Moment()


def _has_journal(folder: Path | None) -> bool:
    return folder is not None and Layout(folder).journal.is_file()


def _size(change: Change) -> int:
    """About the bytes it takes."""
    # What a method begins with it records in its first turn, and holds itself as well.
    tensors = list((change.state or {}).values()) if change.entry.turns > 1 else []
    for one in change.shifts or ():
        for shift in one.values():
            tensors += (
                [shift.delta]
                if isinstance(shift, Dense)
                else [shift.left, shift.right, shift.edit_index]
            )
    text = sum(200 + len(record.prompt) for record in change.entry.records)
    return text + sum(tensor.numel() * tensor.element_size() for tensor in tensors)
