"""Writing so that a crash leaves the old file or the new one, never a mixture."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from safetensors import SafetensorError

from ultraedit.errors import UltraEditError

TEMPORARY = ".tmp-"


class Measured:
    """A stream that counts and digests what is written to it, to save a second reading."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        self.size = 0
        self.digest = hashlib.sha256()

    def write(self, data: memoryview, /) -> None:
        """Pass `data` on."""
        self.stream.write(data)
        self.size += data.nbytes
        self.digest.update(data)


def stage(path: Path, fill: Callable[[Measured], None]) -> tuple[Path, Measured]:
    """Write a temporary file beside `path` and bring it to the disk, ready to be renamed.

    Args:
        path: The file that is to come into being.
        fill: Writes the content.

    Returns:
        The temporary file and the measure of what was written.
    """
    temporary = path.with_name(TEMPORARY + path.name)
    try:
        with open(temporary, "wb") as stream:
            measured = Measured(stream)
            fill(measured)
            stream.flush()
            os.fsync(stream.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary, measured


def replace(temporary: Path, path: Path) -> None:
    """Rename a staged file over `path` and make the renaming durable."""
    os.replace(temporary, path)
    sync_folder(path.parent)


def write_file(path: Path, fill: Callable[[Measured], None]) -> Measured:
    """Create or replace `path` in one step that survives a crash."""
    temporary, measured = stage(path, fill)
    try:
        replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return measured


def place(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`: a hard link, a copy where links are refused.

    Symbolic links are followed first: the Hugging Face cache consists of them, and a link
    to a link would dangle when the cache is tidied up.
    """
    resolved = Path(os.path.realpath(source))
    try:
        os.link(resolved, target)
    except OSError:
        # Another file system, or one without links, or a file of another user's. Whatever
        # else it was, a full disk for one, the copy meets it again and reports it.
        write_file(target, lambda sink: _copy(resolved, sink))
    else:
        sync_folder(target.parent)


def sync_file(path: Path) -> None:
    """Bring a file that another library wrote to the disk."""
    with open(path, "rb") as stream:
        os.fsync(stream.fileno())


def sync_folder(folder: Path) -> None:
    """Bring a folder's entries to the disk; renaming alone does not."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def discard(path: Path) -> None:
    """Delete a file or a folder with all it holds."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def named_failures(path: Path) -> Iterator[None]:
    """Turn what the system refuses into one line that names the path and the reason.

    Raises:
        UltraEditError: for every `OSError` and every failure of safetensors and SQLite.
    """
    try:
        yield
    except OSError as error:
        raise UltraEditError(f"cannot write {path}: {error}") from error
    except (SafetensorError, sqlite3.Error) as error:
        reason = " ".join(str(error).split())
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_IOERR_SHMSIZE:
            # All that SQLite says where it could not make a side file large enough.
            reason = f"{reason}: {os.strerror(errno.ENOSPC)}"
        raise UltraEditError(f"cannot write {path}: {reason}") from error


def _copy(source: Path, sink: Measured) -> None:
    with open(source, "rb") as stream:
        while block := stream.read(8 * 2**20):
            sink.write(memoryview(block))
