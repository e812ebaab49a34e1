"""Who changed what and when: a file of JSON lines that only grows."""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from ultraedit.service.keys import SECRET
from ultraedit.storage.atomic import named_failures, sync_folder
from ultraedit.storage.entry import now

FILE = "audit.jsonl"
BLOCK = 2**16


class Audit:
    """The log of all changes; safe to use from several threads and processes.

    A crash may leave half a line at the end. It is skipped, and the next entry has its own line.

    Args:
        path: The file, `audit.jsonl` in the server's folder; made with the first entry.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()

    def write(
        self,
        author: str,
        set_name: str | None,
        action: str,
        detail: Mapping[str, Any] | None = None,
    ) -> None:
        """Add an entry; it is on the disk when this returns.

        Args:
            author: Name of the key.
            set_name: Of the edit set; None if it concerns none.
            action: As in `edit` or `keys.revoke`.
            detail: What JSON can hold. Keys in it are blotted out.

        Raises:
            UltraEditError: it cannot be written.
        """
        entry = {
            "time": now(), "author": author, "set": set_name, "action": action,
            "detail": dict(detail or {}),
        }  # fmt: skip
        line = SECRET.sub("ue-...", json.dumps(entry, allow_nan=False)).encode() + b"\n"
        with self._lock, named_failures(self._path):
            descriptor = os.open(
                self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
            with open(descriptor, "r+b", buffering=0) as file:
                # Given back when the file is closed.
                fcntl.flock(file, fcntl.LOCK_EX)
                size = os.fstat(descriptor).st_size
                if size and os.pread(descriptor, 1, size - 1) != b"\n":
                    line = b"\n" + line
                while line:
                    line = line[os.write(descriptor, line) :]
                os.fsync(descriptor)
            if not size:
                sync_folder(self._path.parent)

    def read(self, set_name: str | None = None, limit: int = 100) -> list[dict[str, Any]]:
        """The newest entries, newest first.

        Args:
            set_name: Only those of this edit set; None for all.
            limit: No more than this.

        Raises:
            OSError: the file cannot be read.
        """
        try:
            with open(self._path, "rb") as stream:
                entries = filter(None, map(_entry, _lines_backwards(stream)))
                chosen = (one for one in entries if set_name is None or one.get("set") == set_name)
                return list(islice(chosen, limit))
        except FileNotFoundError:
            return []


def _lines_backwards(stream: BinaryIO) -> Iterator[bytes]:
    position, rest = stream.seek(0, os.SEEK_END), b""
    while position:
        step = min(BLOCK, position)
        position = stream.seek(position - step)
        rest, *lines = (stream.read(step) + rest).split(b"\n")
        yield from reversed(lines)
    yield rest


def _entry(line: bytes) -> dict[str, Any] | None:
    """What a line says; None for half a line."""
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None
