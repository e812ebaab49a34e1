"""Where a comparison's files lie, and the one process at a time that may write them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ultraedit.errors import InputError
from ultraedit.storage.atomic import TEMPORARY, named_failures, sync_folder, write_file
from ultraedit.storage.lock import hold

LOCK = ".lock"
RUNS = "runs"


@dataclass(frozen=True)
class RunFolder:
    """The paths of one run."""

    path: Path

    @property
    def cases(self) -> Path:
        """Every case's scores, one JSON object a line."""
        return self.path / "cases.jsonl"

    @property
    def turns(self) -> Path:
        """What every turn cost, one JSON object a line."""
        return self.path / "turns.jsonl"

    @property
    def result(self) -> Path:
        """Written last: where it is, the run is done."""
        return self.path / "result.json"

    @property
    def model(self) -> Path:
        """The edited model while the run lasts."""
        return self.path / "model"

    @property
    def cache(self) -> Path:
        """What the run's method has measured of the model, while the run lasts."""
        return self.path / "cache"

    @property
    def lock(self) -> Path:
        """Held by the run's process: it may outlive the comparison that started it."""
        return self.path / LOCK

    @property
    def errors(self) -> Path:
        """What the run's process had to say for itself."""
        return self.path / "errors.txt"


@dataclass(frozen=True)
class Folder:
    """The paths of one comparison."""

    out: Path

    @property
    def summary(self) -> Path:
        """The plan and all results, for machines."""
        return self.out / "comparison.json"

    @property
    def page(self) -> Path:
        """The tables, for people."""
        return self.out / "comparison.md"

    @property
    def picture(self) -> Path:
        """Efficacy against locality."""
        return self.out / "comparison.svg"

    @property
    def unedited(self) -> Path:
        """What the unedited model answered, one JSON object a line; all runs read it."""
        return self.out / "unedited.jsonl"

    def run(self, name: str) -> RunFolder:
        """Where a run's files lie."""
        return RunFolder(self.out / RUNS / name)


@contextmanager
def held(out: str | Path) -> Iterator[Folder]:
    """Hold a comparison's folder until the block ends; it is made if it is not there.

    Raises:
        InputError: `out` is a file, or holds something that is no comparison.
        UltraEditError: another process holds it, or it cannot be created.
    """
    out = Path(out)
    _check(out)
    created = not out.exists()
    with named_failures(out):
        out.mkdir(parents=True, exist_ok=True)
        if created:
            sync_folder(out.parent)
    with hold(out / LOCK, out):
        # A run whose comparison was killed goes on until its turn ends.
        for lock in sorted((out / RUNS).glob(f"*/{LOCK}")):
            with hold(lock, out):
                pass
        folder = Folder(out)
        try:
            yield folder
        finally:
            if not folder.summary.exists():
                _leave_no_trace(out, created)


def write_text(path: Path, text: str) -> None:
    """Create or replace a text file in one step that survives a crash.

    Raises:
        UltraEditError: it cannot be written; what was there still is.
    """
    with named_failures(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        data = memoryview(text.encode())
        write_file(path, lambda sink: sink.write(data))


def as_text(content: Mapping[str, Any]) -> str:
    """JSON as files of a comparison hold it.

    Raises:
        ValueError: a number is not finite.
    """
    return json.dumps(content, ensure_ascii=False, indent=2, allow_nan=False) + "\n"


def read_object(path: Path) -> dict[str, Any]:
    """A JSON file that this package wrote.

    Raises:
        InputError: it cannot be read, or was altered.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path} is damaged: it is no JSON") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} is damaged: it holds no object")
    return content


def _check(out: Path) -> None:
    if not out.exists():
        if out.is_symlink():
            raise InputError(f"{out} is a link to nothing")
        return
    if not out.is_dir():
        raise InputError(f"{out} is a file, not a folder")
    if Folder(out).summary.is_file():
        return
    # What a comparison leaves that was ended before its first file was whole.
    found = {path.name for path in out.iterdir() if not path.name.startswith(TEMPORARY)}
    if found - {LOCK}:
        raise InputError(f"{out} is not empty and is no comparison; name another folder")


def _leave_no_trace(out: Path, created: bool) -> None:
    """Where nothing was written, the place is left as it was found."""
    with suppress(OSError):
        (out / LOCK).unlink()
        if created:
            out.rmdir()
