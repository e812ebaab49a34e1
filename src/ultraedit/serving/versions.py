"""The versions that were pushed under a name: their files, and which of them the server has."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ultraedit.errors import InputError
from ultraedit.export import checkpoint, gguf, lora
from ultraedit.history.contributions import contributions
from ultraedit.serving.engines import Form, Version
from ultraedit.storage.atomic import write_file

STATE = "pushed.json"


@dataclass(frozen=True)
class Versions:
    """The folder of a name's versions.

    Attributes:
        home: The folder.
        last: The highest number that was given; no path comes twice.
        current: What the server has; None for the base alone.
    """

    home: Path
    last: int = 0
    current: Version | None = None

    @staticmethod
    def read(home: Path) -> Versions:
        """What earlier pushes left.

        Raises:
            InputError: the note of them is damaged.
        """
        try:
            content = json.loads((home / STATE).read_text(encoding="utf-8"))
            current = content["current"]
            return Versions(
                home, int(content["last"]), None if current is None else Version(**current)
            )
        except FileNotFoundError:
            return Versions(home)
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{home / STATE} is damaged: {error}") from error

    def next(self, form: Form, entry: int) -> Version:
        """The version after the last one, under a path that was never used; not written yet."""
        name = f"v{self.last + 1:06}{'.gguf' if form == 'gguf' else ''}"
        return Version(self.last + 1, str((self.home / name).resolve()), form, entry)

    def counted(self, version: Version) -> Versions:
        """The same, once the number of a version is given."""
        return replace(self, last=version.number)

    def with_current(self, version: Version | None) -> Versions:
        """The same, once the server has a version."""
        return replace(self, current=version)

    def save(self) -> None:
        """Write the note, and delete the versions before the current one.

        The next push needs the current one to go back to; a server may read it again at any time.

        Raises:
            UltraEditError: it cannot be written.
        """
        content = {"last": self.last, "current": self.current and asdict(self.current)}
        text = json.dumps(content, indent=2) + "\n"
        write_file(self.home / STATE, lambda sink: sink.write(memoryview(text.encode())))
        current = self.last + 1 if self.current is None else self.current.number
        for path in self.home.iterdir():
            if 0 < _number(path) < current:
                discard(path)


def write(out: Path, version: Version, *, rank: int | None, kind: str) -> None:
    """Write the files of a version.

    Args:
        out: The edited model.
        version: Which; its path is not there yet.
        rank: Of an adapter; None for the default of `export`.
        kind: Type of the edited weights in a GGUF file.

    Raises:
        InputError: the model cannot leave in this form.
        UltraEditError: it cannot be written.
    """
    if version.form == "gguf":
        gguf.write(out, version.path, kind=kind)
    elif version.form == "weights":
        checkpoint.write(str(out), Path(version.path))
    else:
        lora.write(out, version.path, rank=rank, shifts=contributions(out))


def discard(path: Path) -> None:
    """Delete a version's files, as far as that is possible."""
    with suppress(OSError):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            os.unlink(path)


def _number(path: Path) -> int:
    name = path.name.removeprefix("v").removesuffix(".gguf")
    return int(name) if path.name.startswith("v") and name.isdecimal() else 0
