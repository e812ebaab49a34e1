"""What makes a version count: a rename of `editor.json`, or a commit of the journal."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from ultraedit.errors import InputError, UltraEditError
from ultraedit.storage.atomic import (
    TEMPORARY,
    Measured,
    discard,
    place,
    stage,
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
        initial: The method's state before any edit, for the start of a new journal.
        about: The base's identity and the weights' names, for the start of a new journal.
        keep: How many entries can be undone: `KEEP_ALL`, a number, or 0.
        snapshot_every: Entries from one snapshot to the next.
        follows: `Journal.head_digest` of the state that was gone on from; None for none.
        inherit: The folder whose journal is to be gone on with in a new one.
    """

    changes: Sequence[Change]
    initial: Mapping[str, Tensor]
    about: Mapping[str, Any]
    keep: int = KEEP_ALL
    snapshot_every: int = 50
    follows: str | None = None
    inherit: Path | None = None


class Decision(Protocol):
    """A version on disk that does not count yet."""

    def commit(self) -> None:
        """Make it count."""

    def tidy(self) -> None:
        """Delete what does not count any more; may fail without harm."""


@dataclass(frozen=True)
class FileDecision:
    """Decides by renaming a staged `editor.json`."""

    layout: Layout
    staged: Path

    @staticmethod
    def prepare(layout: Layout, manifest: Manifest) -> FileDecision:
        """Stage the file."""
        if layout.journal.exists():
            raise InputError(f"{layout.out} keeps a journal and cannot go on without one")

        def fill(sink: Measured) -> None:
            sink.write(memoryview(manifest.to_json().encode()))

        return FileDecision(layout, stage(layout.manifest, fill)[0])

    def commit(self) -> None:
        os.replace(self.staged, self.layout.manifest)
        sync_folder(self.layout.internal)

    def tidy(self) -> None:
        """Nothing is left over."""


@dataclass(frozen=True)
class JournalDecision:
    """Decides by a commit of the database, or by the rename that puts a new one in place."""

    layout: Layout
    entries: Sequence[Entry]
    head: Head
    staged: Path | None

    @staticmethod
    def prepare(
        layout: Layout, manifest: Manifest, snapshot: Snapshot, update: Update
    ) -> JournalDecision:
        """Write the files of the new entries, and the database if it is the first."""
        if not layout.history.is_dir():
            layout.history.mkdir()
            sync_folder(layout.internal)
        entries: list[Entry] = []
        staged = None
        if layout.journal.exists():
            path = layout.journal
        else:
            path = staged = layout.internal / f"{TEMPORARY}{layout.journal.name}"
            for leftover in layout.internal.glob(f"{staged.name}*"):
                discard(leftover)
            if update.inherit is not None:
                _inherit(layout, Layout(update.inherit), staged)
        if path.exists():
            with Journal(path) as journal:
                if journal.head_digest() != update.follows:
                    raise UltraEditError(
                        f"{layout.out} was changed by another process since it was read"
                    )
                head = journal.head()
                since = journal.outline(max(head.snapshots) - 1)
                rebuilt = head.number in rebuildable(head, since)
        else:
            first = write_snapshot(layout.history_file(0, "snapshot"), {}, update.initial)
            entries.append(Entry("start", now(), _author(update), 0, 0, snapshot=first))
            head = Head(0, "", update.about, 0, (0,), update.keep, update.snapshot_every)
            rebuilt = True
        clear_beyond(layout, head.number)
        number = head.number
        for change in update.changes:
            number += 1
            factors = None
            if change.shifts is not None and update.keep:
                factors = write_factors(
                    layout.history_file(number, "factors"), change.shifts, change.state
                )
            rebuilt = rebuilt and factors is not None
            records = tuple(
                edit if edit.id else replace(edit, id=f"{number}-{place}")
                for place, edit in enumerate(change.entry.records, 1)
            )
            entries.append(replace(change.entry, number=number, factors=factors, records=records))
        snapshots = head.snapshots
        if update.changes:
            written = {"edited": manifest.edited.sha256, "state": manifest.state.sha256}
            if manifest.masters is not None:
                written["masters"] = manifest.masters.sha256
            last = replace(entries[-1], written=written)
            if update.keep and (not rebuilt or number - snapshots[-1] >= update.snapshot_every):
                path = layout.history_file(number, "snapshot")
                kept = write_snapshot(path, snapshot.masters, snapshot.state)
                last = replace(last, snapshot=kept)
                snapshots = (*snapshots, number)
            entries[-1] = last
        after, snapshots = pruned(number, snapshots, head.factors_after, update.keep)
        head = Head(
            number, manifest.to_json(), head.about, after, snapshots,
            update.keep, update.snapshot_every,
        )  # fmt: skip
        if staged is not None and not staged.exists():
            create(staged, entries, head)
        elif staged is not None:
            with Journal(staged) as journal:
                journal.append(entries, head)
        if staged is not None:
            sync_file(staged)
        return JournalDecision(layout, entries, head, staged)

    def commit(self) -> None:
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
        self.layout.manifest.unlink(missing_ok=True)
        for path, number, what in self.layout.history_files():
            if (
                (what == "factors" and number <= self.head.factors_after)
                or (what == "snapshot" and number not in self.head.snapshots)
                or what == "leftover"
            ):
                discard(path)


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


def _author(update: Update) -> str:
    return update.changes[0].entry.author if update.changes else str(update.about.get("author", ""))
