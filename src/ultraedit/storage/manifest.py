"""What the version of an edited model that counts consists of, wherever that is written.

The journal's last commit says it. Folders of earlier releases may have a file `editor.json`
instead; the next save there begins a journal.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ultraedit.errors import InputError
from ultraedit.storage.database import damage_named
from ultraedit.storage.filerecord import FileRecord, plain
from ultraedit.storage.journal import Journal
from ultraedit.storage.layout import Layout, is_edited_model

# 2: a state may be left out, and constants have files of their own.
FORMAT = 2


@dataclass(frozen=True)
class Manifest:
    """One version of an edited model: its numbers and its files.

    Args:
        version: Turns applied.
        settings: The caller's.
        keys: Edited parameter -> its name in the checkpoint files.
        edited: The shard with the served weights.
        originals: The unedited weights.
        masters: The float32 masters; absent when the served weights are their own.
        state: The method's tensors less its constants; absent where they follow from the history.
        base: Name and size of each base shard.
        source: Where the base came from, for people.
        constants: Files that states here and in the history refer to.
    """

    version: int
    settings: Mapping[str, Any]
    keys: Mapping[str, str]
    edited: FileRecord
    originals: FileRecord
    masters: FileRecord | None
    state: FileRecord | None
    base: Mapping[str, int]
    source: str | None
    constants: tuple[FileRecord, ...] = ()

    def files(self, layout: Layout) -> set[Path]:
        """Every file that this version needs, but for what decides and the history."""
        inside = [self.originals, *self.constants]
        inside += [record for record in (self.masters, self.state) if record is not None]
        return (
            {layout.out / name for name in self.base}
            | {layout.out / self.edited.name, layout.staged(self.edited)}
            | {layout.internal / record.name for record in inside}
        )

    def check_edited(self, out: Path) -> Path:
        """The edited shard's path, once its content was found to be what was written.

        Raises:
            InputError: it is missing, truncated or altered.
        """
        path = Layout(out).edited(self.edited)
        return replace(self.edited, name=path.name).check(path.parent)

    def to_json(self) -> str:
        """As the journal holds it.

        Raises:
            TypeError: the settings hold something that JSON cannot.
        """
        content = {"format": FORMAT, **asdict(self)}
        return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def read_manifest(out: Path) -> Manifest:
    """Read which version counts.

    Raises:
        InputError: `out` is no edited model, or one that this ultraedit cannot read.
    """
    layout = Layout(out)
    if not is_edited_model(out):
        raise InputError(f"{out} is no edited model: it has no ultraedit/{layout.manifest.name}")
    if layout.journal.is_file():
        with Journal(layout.journal) as journal, damage_named(layout.journal):
            return parse_manifest(journal.head().manifest, layout.journal)
    try:
        text = layout.manifest.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise _damaged(layout.manifest) from error
    manifest = parse_manifest(text, layout.manifest)
    if manifest.state is None:
        # There is no history that it could follow from.
        raise _damaged(layout.manifest)
    return manifest


def parse_manifest(text: str, path: Path) -> Manifest:
    """A manifest from its JSON text; `path` says where it was found.

    Raises:
        InputError: it is none, or of a later format.
    """
    try:
        content = json.loads(text)
        written = content.pop("format")
        if not isinstance(written, int):
            raise TypeError("format")
        if written <= FORMAT:
            return _manifest(content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path) from error
    raise InputError(
        f"{path} has format {written}, this ultraedit reads up to {FORMAT}: update ultraedit"
    )


def _damaged(path: Path) -> InputError:
    return InputError(f"{path} is damaged: it is not the {path.name} of an OUT")


def _manifest(content: Mapping[str, Any]) -> Manifest:
    if not all(isinstance(content[name], dict) for name in ("settings", "keys", "base")):
        raise TypeError("not a mapping")
    for name in content["base"]:
        plain(name)
    return Manifest(
        version=int(content["version"]),
        settings=content["settings"],
        keys=content["keys"],
        edited=FileRecord.of_json(content["edited"]),
        originals=FileRecord.of_json(content["originals"]),
        masters=None if content["masters"] is None else FileRecord.of_json(content["masters"]),
        state=None if content["state"] is None else FileRecord.of_json(content["state"]),
        base=content["base"],
        source=content["source"],
        constants=tuple(FileRecord.of_json(one) for one in content.get("constants", [])),
    )
