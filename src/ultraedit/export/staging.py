"""New files and folders that are there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from ultraedit.errors import InputError, UltraEditError
from ultraedit.storage.atomic import TEMPORARY, discard, named_failures, sync_folder


@contextmanager
def new_folder(path: Path, outside: Path) -> Iterator[Path]:
    """A folder to fill, which appears at `path` when the block ends well.

    Args:
        path: What must not be there yet, or be an empty folder.
        outside: A folder it must not lie in.

    Raises:
        InputError: `path` is taken.
        UltraEditError: it cannot be written; nothing is left of it.
    """
    target = _target(path, outside)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{path} is there already and not an empty folder; name another")
    with named_failures(path), _workplace(target) as work:
        staged = work / target.name
        staged.mkdir()
        yield staged
        for folder in [*staged.rglob("*"), staged]:
            if folder.is_dir():
                sync_folder(folder)
        # Fails where another process has filled the folder meanwhile.
        os.rename(staged, target)
        sync_folder(target.parent)


@contextmanager
def new_file(path: Path, outside: Path) -> Iterator[Path]:
    """Where to write a file, which appears at `path` when the block ends well.

    Args:
        path: What must not be there yet.
        outside: A folder it must not lie in.

    Raises:
        InputError: `path` is taken.
        UltraEditError: it cannot be written; nothing is left of it.
    """
    target = _target(path, outside)
    if target.exists():
        raise InputError(f"{path} is there already; name another file")
    with named_failures(path), _workplace(target) as work:
        yield work / target.name
        os.replace(work / target.name, target)
        sync_folder(target.parent)


def _target(path: Path, outside: Path) -> Path:
    if path.is_symlink() and not path.exists():
        raise InputError(f"{path} is a link to nothing")
    # Renaming would replace a link, not what it leads to.
    target = Path(os.path.realpath(path))
    if target.is_relative_to(os.path.realpath(outside)):
        raise InputError(f"{path} lies in {outside}; name a place outside of it")
    return target


@contextmanager
def _workplace(target: Path) -> Iterator[Path]:
    """A folder beside `target` for this process alone, which is gone afterwards."""
    missing = [path for path in target.parents if not path.exists()]
    work = target.with_name(TEMPORARY + target.name)
    finished = False
    try:
        work.mkdir(parents=True, exist_ok=True)
        for path in missing:
            sync_folder(path.parent)
        lock = work / f"{TEMPORARY}lock"
        with _held(lock, target):
            try:
                _clear(work, keep=lock)
                yield work
                finished = True
            finally:
                with suppress(OSError):
                    discard(work)
    finally:
        if not finished:
            for path in missing:
                with suppress(OSError):
                    path.rmdir()


@contextmanager
def _held(path: Path, target: Path) -> Iterator[None]:
    """Hold a lock file, which the system gives back when the process dies."""
    holder = FileLock(path)
    try:
        holder.acquire(timeout=0)
    except (Timeout, FileNotFoundError) as error:
        # The holder before may have deleted the folder in the meantime.
        raise UltraEditError(f"another process is writing {target}") from error
    try:
        yield
    finally:
        holder.release()


def _clear(work: Path, keep: Path) -> None:
    """Delete what a process that was killed has left."""
    for path in work.iterdir():
        if path != keep:
            discard(path)
