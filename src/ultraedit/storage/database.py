"""A journal's SQLite file: its tables, how it is opened, and what its damage looks like."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ultraedit.errors import InputError

SCHEMA = """
CREATE TABLE entries (number INTEGER PRIMARY KEY, body TEXT NOT NULL, digest TEXT NOT NULL);
CREATE TABLE edits (
    entry INTEGER NOT NULL, place INTEGER NOT NULL, record TEXT NOT NULL,
    PRIMARY KEY (entry, place)
) WITHOUT ROWID;
CREATE TABLE head (
    one INTEGER PRIMARY KEY CHECK (one = 1), body TEXT NOT NULL, digest TEXT NOT NULL
);
"""


def create_tables(path: Path) -> sqlite3.Connection:
    """A new database with a journal's tables, in WAL mode.

    The connection shares nothing, so that closing it leaves the file complete without any of
    SQLite's own side files.
    """
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA journal_mode = WAL")
    for statement in SCHEMA.split(";")[:-1]:
        connection.execute(statement)
    return connection


def connect(path: Path) -> sqlite3.Connection:
    """Open an existing journal, for writing where that is possible.

    Raises:
        InputError: it is missing or damaged.
    """
    if not path.is_file():
        raise InputError(f"{path} is missing")
    # On a full disk there is no room for the file through which connections share a WAL; one
    # that is alone keeps that in memory. In a folder that cannot be written SQLite refuses WAL
    # files, unless it is promised that nobody else writes them either.
    alone = not path.with_name(path.name + "-wal").exists()
    ways = [("mode=rw", False), ("mode=rw", True), ("mode=ro", False)]
    failure: sqlite3.Error | UnicodeError | None = None
    for mode, exclusive in [*ways, *([("immutable=1", False)] if alone else [])]:
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?{mode}", uri=True, isolation_level=None, timeout=30
        )
        try:
            if exclusive:
                connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("SELECT 1 FROM head").fetchone()
            connection.execute("PRAGMA synchronous = FULL")
            return connection
        except (sqlite3.Error, UnicodeError) as error:
            # What SQLite quotes of a damaged schema need not be text.
            connection.close()
            failure = failure or error
            if not isinstance(error, sqlite3.OperationalError):
                break
    assert failure is not None
    raise _unreadable(path, failure) from failure


def _unreadable(path: Path, error: Exception) -> InputError:
    # SQLite quotes a damaged schema, line breaks and all.
    return InputError(f"{path} cannot be read: {' '.join(str(error).split())}")


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Turn whatever a damaged database makes of a query into one line that names it.

    Raises:
        InputError: for every failure of SQLite and every content that is no journal's.
    """
    try:
        yield
    except sqlite3.Error as error:
        raise _unreadable(path, error) from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is damaged: it is not the journal of an OUT") from error


def chained_digest(*texts: str) -> str:
    """A digest of texts in their order, none of which can pass into the next."""
    digest = hashlib.sha256()
    for text in texts:
        content = text.encode()
        digest.update(len(content).to_bytes(8, "little"))
        digest.update(content)
    return digest.hexdigest()


def canonical_json(value: Any) -> str:
    """The same text for the same content."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
