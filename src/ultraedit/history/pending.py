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

from ultraedit.core.shift import Dense, LowRank, Shift
from ultraedit.records import Turn
from ultraedit.storage import KEEP_ALL, Change, EditRecord, Entry, Update, now

Passes = Sequence[Mapping[str, Shift]]

# However many turns are made without saving, no more than this is kept for the journal.
MOST_BYTES = 2**30
SNAPSHOT_EVERY = 50


def this_user() -> str:
    """Who runs this process, as far as the system knows."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


@dataclass(frozen=True)
class Recorded:
    """What a folder's journal said when this editor last read or wrote it."""

    digest: str
    turns: int


class Pending:
    """Remembers turns until a save writes them; bounded, the oldest are forgotten first.

    A forgotten turn's edits stay in the weights; the journal shows a gap.

    Args:
        author: Who makes the edits.
        keep: How many entries can be undone; see `storage.parse_history`.
        snapshot_every: Entries from one snapshot to the next.
        initial: The method's state before any edit.
        active: False remembers nothing.
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
        self.keep = keep
        self.snapshot_every = snapshot_every
        self.initial = dict(initial or {})
        self.active = active
        self.changes: deque[Change] = deque()
        self.recorded: dict[Path, Recorded] = {}
        self.latest: Path | None = None
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
    ) -> None:
        """Remember a turn.

        Args:
            turn: What was done.
            passes: The shifts as they were applied.
            state: What the method records of the turn.
            edits: Edits in effect after it.
            device: The kind of device the shifts were added on.
            run: How far the file of the run was read.
        """
        if not self.active:
            return
        entry = Entry(
            kind="turn", time=now(), author=self.author, turns=turn.index + 1, edits=edits,
            passes=turn.passes, seconds=round(turn.seconds, 3), device=device, run=run,
            records=tuple(
                EditRecord(edit.id or "", edit.prompt, edit.target, edit.subject, learned)
                for edit, learned in zip(turn.edits, turn.learned, strict=True)
            ),
        )  # fmt: skip
        kept = self.keep != 0
        change = Change(
            entry,
            [{name: _on_cpu(shift) for name, shift in one.items()} for one in passes]
            if kept
            else None,
            {key: tensor.cpu() for key, tensor in state.items()} if kept else None,
        )
        self.changes.append(change)
        self._bytes += _size(change)
        self._forget()

    def update(self, folder: Path, turns: int, edits: int, about: Mapping[str, Any]) -> Update:
        """What saving into `folder` adds to its journal.

        Args:
            folder: Resolved.
            turns: Turns in effect now.
            edits: Edits in effect now.
            about: For the start of a new journal.
        """
        before = self.recorded.get(folder)
        inherit = None
        if before is None and self.latest is not None and (self.latest / "ultraedit").is_dir():
            inherit, before = self.latest, self.recorded[self.latest]
        changes = list(self.changes)
        known = before.turns if before else 0
        missing_to = changes[0].entry.turns - 1 if changes else turns
        if missing_to != known:
            first = changes[0].entry if changes else None
            count = edits if first is None else first.edits - len(first.records)
            gap = Entry("gap", now(), self.author, missing_to, count)
            changes.insert(0, Change(gap, None, None))
        return Update(
            changes=changes,
            initial=self.initial,
            about=about,
            keep=self.keep,
            snapshot_every=self.snapshot_every,
            follows=before.digest if before else None,
            inherit=inherit,
        )

    def saved(self, folder: Path, digest: str, turns: int) -> None:
        """Everything remembered is in the journal of `folder` now."""
        self.changes.clear()
        self._bytes = 0
        self.recorded[folder] = Recorded(digest, turns)
        self.latest = folder

    def _forget(self) -> None:
        for place, change in enumerate(self.changes):
            if self._bytes <= MOST_BYTES:
                return
            if change.shifts is not None:
                self._bytes -= _size(change)
                self.changes[place] = replace(change, shifts=None, state=None)
                self._bytes += _size(self.changes[place])
        while self._bytes > MOST_BYTES and self.changes:
            self._bytes -= _size(self.changes.popleft())


def _on_cpu(shift: Shift) -> Shift:
    if isinstance(shift, Dense):
        return Dense(shift.delta.detach().cpu())
    return LowRank(
        shift.left.detach().cpu(), shift.right.detach().cpu(), shift.edit_index.detach().cpu()
    )


def _size(change: Change) -> int:
    """About the bytes it takes."""
    tensors = list((change.state or {}).values())
    for one in change.shifts or ():
        for shift in one.values():
            tensors += (
                [shift.delta]
                if isinstance(shift, Dense)
                else [shift.left, shift.right, shift.edit_index]
            )
    text = sum(200 + len(record.prompt) for record in change.entry.records)
    return text + sum(tensor.numel() * tensor.element_size() for tensor in tensors)
