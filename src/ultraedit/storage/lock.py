"""One process at a time may edit a folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from ultraedit.errors import UltraEditError
from ultraedit.storage.atomic import named_failures, sync_folder
from ultraedit.storage.layout import Layout, check_destination, is_edited_model


@contextmanager
def lock(out: str | Path) -> Iterator[None]:
    """Hold a folder for this process until the block ends; it is made if it is not there.

    The system gives the lock back when the process dies, so a crash leaves none behind.

    Args:
        out: The folder of an edited model, or one that is to become it.

    Raises:
        InputError: `out` is something that `write` would refuse.
        UltraEditError: another process holds it, or it cannot be created.
    """
    out = Path(out)
    check_destination(out)
    layout = Layout(out)
    created = not out.exists()
    with named_failures(out):
        layout.internal.mkdir(parents=True, exist_ok=True)
        if created:
            sync_folder(out.parent)
    with hold(layout.lock, out):
        try:
            yield
        finally:
            if not is_edited_model(out):
                _leave_no_trace(layout, created)


@contextmanager
def hold(path: Path, out: Path) -> Iterator[None]:
    """Hold a lock file until the block ends; the system gives it back when the process dies.

    Args:
        path: The file, made if it is not there.
        out: What it stands for, for messages.

    Raises:
        UltraEditError: another process holds it, or it cannot be made.
    """
    holder = FileLock(path)
    try:
        holder.acquire(timeout=0)
    except Timeout as error:
        raise UltraEditError(f"{out} is in use by another process") from error
    except OSError as error:
        raise UltraEditError(f"cannot lock {out}: {error.strerror}") from error
    try:
        yield
    finally:
        holder.release()


def _leave_no_trace(layout: Layout, created: bool) -> None:
    """A run that wrote no model leaves the place as it found it."""
    with suppress(OSError):
        layout.lock.unlink()
        layout.internal.rmdir()
        if created:
            layout.out.rmdir()
