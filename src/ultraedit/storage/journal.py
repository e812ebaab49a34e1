"""The journal: a SQLite database whose commit decides which version of OUT counts.

Every entry carries a digest over itself and the entry before it, and the head one over the
last entry and everything that is not an entry: whatever was altered or cut off is noticed
before it is used.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ultraedit.errors import InputError
from ultraedit.storage.database import (
    canonical_json,
    chained_digest,
    connect,
    create_tables,
    damage_named,
)
from ultraedit.storage.entry import EditRecord, Entry
from ultraedit.storage.layout import Layout

FORMAT = 1


@dataclass(frozen=True)
class Head:
    """Where the model is.

    Attributes:
        number: The last entry.
        manifest: The version that counts, as JSON text.
        about: What holds for the whole journal: the base's identity, the weights' names.
        factors_after: Shifts are kept of the entries after this one.
        snapshots: Entries that have a snapshot.
        keep: How many entries can be undone; see `retention`.
        snapshot_every: Entries from one snapshot to the next.
        format: Of the database.
    """

    number: int
    manifest: str
    about: Mapping[str, Any]
    factors_after: int
    snapshots: tuple[int, ...]
    keep: int
    snapshot_every: int
    format: int = FORMAT


@dataclass(frozen=True)
class Outline:
    """As much of an entry as tells which entries lead to a state."""

    number: int
    kind: str
    of: int | None
    place: int | None
    has_factors: bool


class Journal:
    """One open database; a context manager.

    Raises:
        InputError: it is missing, damaged, altered, or of a later format.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection = connect(path)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the file back."""
        self._connection.close()

    def head(self) -> Head:
        """Where the model is, checked against the last entry."""
        return self._head()[0]

    def head_digest(self) -> str:
        """Changes with every commit: tells whether another process was here."""
        return self._head()[1]

    def entry(self, number: int) -> Entry:
        """One entry, checked.

        Raises:
            InputError: there is none of that number, or it was altered.
        """
        for entry in self.entries(number, number):
            return entry
        raise InputError(f"{self.path} has no entry {number}")

    def entries(self, first: int = 0, last: int | None = None) -> Iterator[Entry]:
        """Entries in their order, each checked against the one before it."""
        last = self.head().number if last is None else last
        with self._named():
            before = "" if first == 0 else self._digest(first - 1)
            for number in range(first, last + 1):
                row = self._one("SELECT body, digest FROM entries WHERE number = ?", number)
                if row is None:
                    raise InputError(f"{self.path} has no entry {number}")
                body, digest = row
                rows = self._connection.execute(
                    "SELECT record, entry, place FROM edits WHERE entry = ? ORDER BY place",
                    (number,),
                ).fetchall()
                records = [row[0] for row in rows]
                # A damaged index would let other queries find other rows.
                if [row[1:] for row in rows] != [(number, place) for place in range(len(rows))]:
                    raise InputError(f"{self.path} was altered: entry {number} is not as written")
                if chained_digest(before, body, *records) != digest:
                    raise InputError(f"{self.path} was altered: entry {number} is not as written")
                before = digest
                yield Entry.of_json(
                    json.loads(body),
                    [EditRecord.of_json(json.loads(record)) for record in records],
                )

    def verify(self) -> None:
        """Read everything once.

        Raises:
            InputError: something was altered.
        """
        for _ in self.entries():
            pass

    def outline(self, after: int = -1) -> dict[int, Outline]:
        """The entries after one in short, by number; not checked."""
        with self._named():
            rows = self._connection.execute(
                "SELECT number, json_extract(body, '$.kind'), json_extract(body, '$.of'),"
                " json_extract(body, '$.place'), json_extract(body, '$.factors') IS NOT NULL"
                " FROM entries"
                " WHERE number > ? ORDER BY number",
                (after,),
            )
            return {
                number: Outline(number, kind, of, place, bool(has_factors))
                for number, kind, of, place, has_factors in rows
            }

    def find(self, edit: str) -> list[tuple[int, int]]:
        """Entries and places of the edits with an id, oldest first."""
        with self._named():
            return list(
                self._connection.execute(
                    "SELECT entry, place FROM edits WHERE json_extract(record, '$[0]') = ?"
                    " ORDER BY entry, place",
                    (edit,),
                )
            )

    def append(self, entries: Sequence[Entry], head: Head) -> str:
        """Add entries and move the head, all or nothing: the commit that decides.

        Returns:
            The new head's digest.
        """
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            digest = _insert(connection, entries, head)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return digest

    def copy(self, path: Path) -> None:
        """Write everything into a new database."""
        with closing(sqlite3.connect(path)) as target:
            self._connection.backup(target)

    def _head(self) -> tuple[Head, str]:
        with self._named():
            row = self._one("SELECT body, digest FROM head WHERE one = 1")
            if row is None:
                raise ValueError("no head")
            body, digest = row
            content = json.loads(body)
            if content["format"] > FORMAT:
                raise InputError(
                    f"{self.path} has format {content['format']}, this ultraedit reads up to"
                    f" {FORMAT}: update ultraedit"
                )
            last = self._digest(content["number"])
            if chained_digest(last, body) != digest:
                raise InputError(f"{self.path} was altered: its head is not as written")
            return Head(**content | {"snapshots": tuple(content["snapshots"])}), digest

    def _digest(self, number: int) -> str:
        row = self._one("SELECT digest FROM entries WHERE number = ?", number)
        if row is None:
            raise InputError(f"{self.path} has no entry {number}")
        return str(row[0])

    def _one(self, query: str, *values: object) -> Any:
        return self._connection.execute(query, values).fetchone()

    @contextmanager
    def _named(self) -> Iterator[None]:
        with damage_named(self.path):
            yield


def open_journal(out: Path) -> Journal:
    """The journal of an edited model.

    Raises:
        InputError: it keeps none, or it is damaged.
    """
    layout = Layout(out)
    if not layout.journal.is_file():
        what = "keeps no journal" if layout.manifest.is_file() else "is no edited model"
        raise InputError(f"{out} {what}")
    return Journal(layout.journal)


def create(path: Path, entries: Sequence[Entry], head: Head) -> None:
    """Write a new journal; it begins to count when it is renamed to its final name."""
    with closing(create_tables(path)) as connection:
        connection.execute("BEGIN")
        _insert(connection, entries, head)
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _insert(connection: sqlite3.Connection, entries: Sequence[Entry], head: Head) -> str:
    before = ""
    last = entries[0].number - 1 if entries else head.number
    if last >= 0:
        query = "SELECT digest FROM entries WHERE number = ?"
        before = connection.execute(query, (last,)).fetchone()[0]
    for entry in entries:
        body = canonical_json(entry.body())
        records = [canonical_json(record.to_json()) for record in entry.records]
        before = chained_digest(before, body, *records)
        connection.execute("INSERT INTO entries VALUES (?, ?, ?)", (entry.number, body, before))
        connection.executemany(
            "INSERT INTO edits VALUES (?, ?, ?)",
            [(entry.number, place, record) for place, record in enumerate(records)],
        )
    body = canonical_json(asdict(head))
    digest = chained_digest(before, body)
    connection.execute("INSERT OR REPLACE INTO head VALUES (1, ?, ?)", (body, digest))
    return digest
