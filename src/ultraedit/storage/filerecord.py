"""A file as it was written: enough to notice that it changed since."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ultraedit.errors import InputError


@dataclass(frozen=True)
class FileRecord:
    """Name, size and checksum of one file."""

    name: str
    size: int
    sha256: str

    def check(self, folder: Path) -> Path:
        """The file's path in a folder, once its content was found to be what was written.

        Raises:
            InputError: it is missing, truncated or altered.
        """
        path = folder / self.name
        check_size(path, self.size)
        with open(path, "rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != self.sha256:
                raise InputError(f"{path} was altered: its checksum is not the recorded one")
        return path

    @staticmethod
    def of_json(content: Mapping[str, Any]) -> FileRecord:
        """A record from its `asdict`.

        Raises:
            KeyError, TypeError, ValueError: it is none.
        """
        return FileRecord(plain(content["name"]), int(content["size"]), str(content["sha256"]))


def check_size(path: Path, size: int) -> None:
    """Check that a file is there and whole.

    Raises:
        InputError: it is missing or has another size.
    """
    if not path.is_file():
        raise InputError(f"{path} is missing")
    if (found := path.stat().st_size) != size:
        raise InputError(f"{path} was truncated or altered: {found} bytes instead of {size}")


def plain(name: str) -> str:
    """The name, which must not have a folder in it: reading and sweeping would leave OUT.

    Raises:
        ValueError: it has.
    """
    if Path(name).name != name:
        raise ValueError(f"{name} is not the name of a file in the folder")
    return name
