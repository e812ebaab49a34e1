"""What makes a version count: a commit of the journal, or the rename of its first database."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ultraedit.errors import UltraEditError
from ultraedit.storage.atomic import (
    TEMPORARY,
    discard,
    place,
    sync_file,
    sync_folder,
)
from ultraedit.storage.entry import Change, Entry, now
from ultraedit.storage.factors import write_factors, write_snapshot
from ultraedit.storage.journal import Head, Journal, create
from ultraedit.storage.layout import Layout
from ultraedit.storage.manifest import Manifest
from ultraedit.storage.retention import KEEP_ALL, pruned, rebuildable
from ultraedit.storage.snapshot import Snapshot


@dataclass(frozen=True, eq=False)
class Update:
    """What a write adds to the journal.

    Attributes:
        changes: The new entries, oldest first.
        author: Who begins a new journal.
        initial: The method's state before any edit, for the start of a new journal.
        about: The base's identity and the weights' names, for the start of a new journal.
        keep: How many entries can be undone: `KEEP_ALL`, a number, or 0.
        snapshot_every: Entries from one snapshot to the next.
        follows: `Journal.head_digest` of the version that the editor was loaded from or saved last;
            None for none.
        inherit: The folder whose journal a new folder continues.
        replayable: Whether the method is found by its name, so that its state after the changes
            follows from the history.
    """

    changes: Sequence[Change]
    author: str
    initial: Mapping[str, Tensor]
    about: Mapping[str, Any]
    keep: int = KEEP_ALL
    snapshot_every: int = 50
    follows: str | None = None
    inherit: Path | None = None
    replayable: bool = False

    @property
    def keeps_state(self) -> bool:
        """Whether the history that is written holds or gives the method's state."""
        return self.replayable and self.keep != 0 and bool(self.changes)


@dataclass(frozen=True)
class Commit:
    """Entries whose files are on disk, and that do not count yet."""

    layout: Layout
    entries: Sequence[Entry]
    head: Head
    staged: Path | None

    @staticmethod
    def prepare(layout: Layout, manifest: Manifest, snapshot: Snapshot, update: Update) -> Commit:
        """Write the files of the new entries, and the database if it is the first."""
        if not layout.history.is_dir():
            layout.history.mkdir()
            sync_folder(layout.internal)
        begun = _begin(layout, update)
        clear_beyond(layout, begun.head.number)
        entries = _entries(layout, update, begun.head.number)
        number, snapshots = begun.head.number + len(entries), begun.head.snapshots
        if entries:
            last = replace(entries[-1], written=checksums(manifest))
            rebuilt = begun.is_rebuilt and all(entry.factors is not None for entry in entries)
            if update.keep and (not rebuilt or number - snapshots[-1] >= update.snapshot_every):
                path = layout.history_file(number, "snapshot")
                if snapshot.state is None:
                    raise ValueError("a snapshot needs the method's state")
                kept = write_snapshot(path, snapshot.masters, snapshot.state)
                last = replace(last, snapshot=kept)
                snapshots = (*snapshots, number)
            entries[-1] = last
        after, snapshots = pruned(number, snapshots, begun.head.factors_after, update.keep)
        head = Head(
            number, manifest.to_json(), begun.head.about, after, snapshots,
            update.keep, update.snapshot_every,
        )  # fmt: skip
        if begun.staged is not None:
            if begun.start is not None:
                create(begun.staged, [begun.start, *entries], head)
            else:
                with Journal(begun.staged) as journal:
                    journal.append(entries, head)
            sync_file(begun.staged)
        return Commit(layout, entries, head, begun.staged)

    def make(self) -> None:
        """Make the version count."""
        if self.staged is not None:
            # Side files of a database that was deleted here would be taken for this one's.
            for side in ("-wal", "-shm"):
                discard(self.layout.journal.with_name(self.layout.journal.name + side))
            os.replace(self.staged, self.layout.journal)
            sync_folder(self.layout.internal)
            return
        with Journal(self.layout.journal) as journal:
            journal.append(self.entries, self.head)

    def tidy(self) -> None:
        """Delete what does not count any more; may fail without harm."""
        # Folders of earlier releases may have been decided by this file.
        self.layout.manifest.unlink(missing_ok=True)
        for path, number, what in self.layout.history_files():
            if (
                (what == "factors" and number <= self.head.factors_after)
                or (what == "snapshot" and number not in self.head.snapshots)
                or what == "leftover"
            ):
                discard(path)


@dataclass(frozen=True)
class _Begun:
    """Where new entries begin.

    Attributes:
        head: Before them.
        is_rebuilt: Whether the state before them can be.
        staged: The new database, where there is none yet; written only if inherited.
        start: The first entry of a journal that begins.
    """

    head: Head
    is_rebuilt: bool
    staged: Path | None = None
    start: Entry | None = None


def _begin(layout: Layout, update: Update) -> _Begun:
    if layout.journal.exists():
        return _begun(layout, update, layout.journal, None)
    staged = layout.internal / f"{TEMPORARY}{layout.journal.name}"
    for leftover in layout.internal.glob(f"{staged.name}*"):
        discard(leftover)
    if update.inherit is not None:
        _inherit(layout, Layout(update.inherit), staged)
        return _begun(layout, update, staged, staged)
    state = write_snapshot(layout.history_file(0, "snapshot"), {}, update.initial)
    start = Entry("start", now(), update.author, 0, 0, snapshot=state)
    head = Head(0, "", update.about, 0, (0,), update.keep, update.snapshot_every)
    return _Begun(head, True, staged, start)


def _begun(layout: Layout, update: Update, path: Path, staged: Path | None) -> _Begun:
    with Journal(path) as journal:
        if journal.head_digest() != update.follows:
            raise UltraEditError(f"{layout.out} was changed by another process since it was read")
        head = journal.head()
        since = journal.outline(max(head.snapshots) - 1)
    return _Begun(head, head.number in rebuildable(head, since), staged)


def _entries(layout: Layout, update: Update, last: int) -> list[Entry]:
    """Number the changes on from `last`, and write their shifts."""
    entries = []
    for number, change in enumerate(update.changes, last + 1):
        factors = None
        if change.shifts is not None and update.keep:
            path = layout.history_file(number, "factors")
            factors = write_factors(path, change.shifts, change.state)
        records = tuple(
            edit if edit.id else replace(edit, id=f"{number}-{place}")
            for place, edit in enumerate(change.entry.records, 1)
        )
        entries.append(replace(change.entry, number=number, factors=factors, records=records))
    return entries


def checksums(manifest: Manifest) -> dict[str, str]:
    """Of the files of a version: another way to the same state can be compared with them."""
    written = {"edited": manifest.edited, "state": manifest.state, "masters": manifest.masters}
    return {name: record.sha256 for name, record in written.items() if record is not None}


def clear_beyond(layout: Layout, last: int) -> None:
    """Delete what was written for entries after `last`, which never came to count."""
    for path, number, what in layout.history_files():
        if number > last or what == "leftover":
            with suppress(OSError):
                discard(path)


def _inherit(layout: Layout, source: Layout, staged: Path) -> None:
    """Bring another folder's journal and its files along."""
    with Journal(source.journal) as journal:
        journal.verify()
        journal.copy(staged)
    for path, _, what in source.history_files():
        target = layout.history / path.name
        if what != "leftover":
            # Another run that was killed here may have left its own.
            discard(target)
            place(path, target)
