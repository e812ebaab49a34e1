"""Where things lie in OUT, and which of its files are ours to delete."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from ultraedit.errors import InputError
from ultraedit.storage.atomic import TEMPORARY, discard
from ultraedit.storage.filerecord import FileRecord

INTERNAL = "ultraedit"
# Loaders that read no index take all files called model*.safetensors. Older folders lack the
# prefix.
BASE = re.compile(r"(model-)?base\d*-\d{5}-of-\d{5}\.safetensors")
EDITED = re.compile(r"model-edited\d*\.safetensors|edited-v[\d-]+\.safetensors")
STAGED = re.compile(r"model-edited\d*(-[0-9a-f]{16})?\.safetensors")
VERSIONED = re.compile(r"(originals|masters|state)(-v[\d-]+)?\.safetensors")
CONSTANTS = re.compile(r"constants-[0-9a-f]{16}\.safetensors")
HISTORY = re.compile(r"(\d{8,})-(factors|snapshot)\.safetensors")


@dataclass(frozen=True)
class Layout:
    """The paths inside one OUT."""

    out: Path

    @property
    def internal(self) -> Path:
        """The subfolder that other loaders have no business in."""
        return self.out / INTERNAL

    @property
    def manifest(self) -> Path:
        """In folders of earlier releases, what says which version counts if there is no journal."""
        return self.internal / "editor.json"

    @property
    def journal(self) -> Path:
        """The database that says which version counts, and how it came about."""
        return self.internal / "journal.db"

    @property
    def history(self) -> Path:
        """The folder of the journal's shifts and snapshots."""
        return self.internal / "history"

    @property
    def index(self) -> Path:
        """The file by which transformers finds the weights."""
        return self.out / "model.safetensors.index.json"

    @property
    def lock(self) -> Path:
        """The file whose holder may write."""
        return self.internal / "lock"

    @property
    def unfinished(self) -> Path:
        """There from the first write's beginning to its end: what else lies here is ours."""
        return self.internal / "unfinished"

    def staged(self, edited: FileRecord) -> Path:
        """Where an edited shard lies until its version counts: loaders do not look there."""
        stem, suffix = os.path.splitext(edited.name)
        return self.internal / f"{stem}-{edited.sha256[:16]}{suffix}"

    def edited(self, record: FileRecord) -> Path:
        """Where an edited shard lies now."""
        staged = self.staged(record)
        return staged if staged.is_file() else self.out / record.name

    def publish(self, edited: FileRecord) -> None:
        """Put the edited shard of a version in the place of the last version's, in one step."""
        if (staged := self.staged(edited)).is_file():
            os.replace(staged, self.out / edited.name)

    def own_files(self) -> Iterator[Path]:
        """Every weight file, version file and leftover that this package wrote here."""
        patterns = ((self.out, (BASE, EDITED)), (self.internal, (VERSIONED, CONSTANTS, STAGED)))
        for folder, ours in patterns:
            for path in sorted(folder.iterdir()) if folder.is_dir() else ():
                if path.name.startswith(TEMPORARY) or any(p.fullmatch(path.name) for p in ours):
                    yield path

    def history_files(self) -> Iterator[tuple[Path, int, str]]:
        """Every file of the history, with the number of its entry and what it holds."""
        for path in sorted(self.history.iterdir()) if self.history.is_dir() else ():
            if match := HISTORY.fullmatch(path.name):
                yield path, int(match[1]), match[2]
            elif path.name.startswith(TEMPORARY):
                yield path, -1, "leftover"

    def history_file(self, number: int, what: str) -> Path:
        """Where an entry's `factors` or `snapshot` lie."""
        return self.history / f"{number:08d}-{what}.safetensors"

    def indexed(self) -> set[Path]:
        """The weight files that `from_pretrained` would read now."""
        try:
            index = json.loads(self.index.read_text(encoding="utf-8"))
            return {self.out / name for name in index["weight_map"].values()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return set()

    def sweep(self, keep: Collection[Path]) -> None:
        """Delete own files that neither `keep` nor the index names."""
        wanted = set(keep) | self.indexed()
        for path in self.own_files():
            if path not in wanted:
                discard(path)

    def free_tag(self, version: int) -> str:
        """A tag for a version's files that no file bears: a version may be written twice."""
        taken = [path.name for path in self.own_files()]
        for attempt in count(1):
            tag = f"v{version:08d}" + (f"-{attempt}" if attempt > 1 else "")
            if not any(name.endswith(f"-{tag}.safetensors") for name in taken):
                return tag
        raise AssertionError("count() has no end")

    def free_edited(self) -> str:
        """A name for an edited shard beside the ones in use."""
        for attempt in count(1):
            name = f"model-edited{attempt if attempt > 1 else ''}.safetensors"
            if not (self.out / name).exists():
                return name
        raise AssertionError("count() has no end")


def is_edited_model(folder: str | Path) -> bool:
    """Whether `folder` is an edited model that `read` may be asked for."""
    layout = Layout(Path(folder))
    return layout.journal.is_file() or layout.manifest.is_file()


def check_destination(out: Path) -> None:
    """Refuse to write into something that is not ours.

    Raises:
        InputError: `out` is a file, or a folder with other things in it.
    """
    if not out.exists():
        if out.is_symlink():
            raise InputError(f"{out} is a link to nothing")
        return
    if not out.is_dir():
        raise InputError(f"{out} is a file, not a folder")
    if is_edited_model(out) or Layout(out).unfinished.exists():
        return
    if {path.name for path in out.iterdir()} - {INTERNAL}:
        raise InputError(f"{out} is not empty and is no edited model; name another folder")
