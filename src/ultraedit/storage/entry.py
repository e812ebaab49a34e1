"""What the journal of an edited model consists of: one entry for everything that changed it.

Entries are numbered from 1 and never renumbered. Entry 0 is the start, the unedited model.
An undo is an entry of its own, so every state there ever was keeps its number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from torch import Tensor

from ultraedit.linalg.shift import Shift
from ultraedit.records import Answers
from ultraedit.storage.filerecord import FileRecord

Kind = Literal["start", "turn", "undo", "undo-edit", "gap"]


@dataclass(frozen=True)
class EditRecord:
    """An edit as the journal keeps it; `learned` is None where it was not asked."""

    id: str
    prompt: str
    target: Answers
    subject: str | None = None
    learned: bool | None = None

    def to_json(self) -> list[Any]:
        """The fields in their order."""
        target = self.target if isinstance(self.target, str) else list(self.target)
        return [self.id, self.prompt, target, self.subject, self.learned]

    @staticmethod
    def of_json(content: Sequence[Any]) -> EditRecord:
        """The record that `to_json` gave.

        Raises:
            TypeError, ValueError: it is none.
        """
        name, prompt, target, subject, learned = content
        answers = target if isinstance(target, str) else tuple(target)
        return EditRecord(name, prompt, answers, subject, learned)


@dataclass(frozen=True)
class Entry:
    """One change of an edited model.

    Attributes:
        kind: `turn`; `undo` back to a state; `undo-edit` of a single edit; `gap` for turns
            that were made without a journal; `start`.
        time: ISO 8601, UTC, when the change was made.
        author: Who made it.
        turns: Turns in effect after it.
        edits: Edits in effect after it.
        passes: How often shifts were applied.
        seconds: Wall-clock seconds it took.
        of: For `undo`, the entry whose state came back; for `undo-edit`, the edit's turn.
        place: For `undo-edit`, the edit's place in its turn.
        run: How far the file of a run was read.
        device: The kind of device on which the shifts were added.
        records: The edits of a turn, or the one taken out.
        number: The entry's own.
        factors: The file with its shifts, when one was written.
        snapshot: The file with the masters and the state after it, when one was written.
        written: Checksums of the version written right after it: another way to the same
            state can be compared with them.
        note: What the caller keeps with the turn, as whose requests it was made of.
    """

    kind: Kind
    time: str
    author: str
    turns: int
    edits: int
    passes: int = 0
    seconds: float = 0.0
    of: int | None = None
    place: int | None = None
    run: Mapping[str, Any] | None = None
    device: str = "cpu"
    records: tuple[EditRecord, ...] = ()
    number: int = 0
    factors: FileRecord | None = None
    snapshot: FileRecord | None = None
    written: Mapping[str, str] | None = None
    note: Mapping[str, Any] | None = None

    def body(self) -> dict[str, Any]:
        """Everything but the edits, for JSON."""
        shallow = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "records"}
        for name in ("factors", "snapshot"):
            shallow[name] = None if shallow[name] is None else asdict(shallow[name])
        if self.note is None:
            # Releases before notes read what has none.
            del shallow["note"]
        return shallow | {"count": len(self.records)}

    @staticmethod
    def of_json(body: Mapping[str, Any], records: Sequence[EditRecord]) -> Entry:
        """An entry from its `body` and its edits.

        Raises:
            KeyError, TypeError, ValueError: it is none.
        """
        content = dict(body)
        if content.pop("count") != len(records) or content["kind"] not in get_args(Kind):
            raise ValueError("edits are missing")
        for name in ("factors", "snapshot"):
            if content[name] is not None:
                content[name] = FileRecord.of_json(content[name])
        return Entry(**content, records=tuple(records))


@dataclass(frozen=True, eq=False)
class Change:
    """What is to become an entry.

    Attributes:
        entry: Without number and files.
        shifts: By module name, per pass, in the order they were applied; None when they
            are not to be kept or never were.
        state: What the method needs to follow the turn in a replay; None for a change
            that leaves the method's state alone.
    """

    entry: Entry
    shifts: Sequence[Mapping[str, Shift]] | None
    state: Mapping[str, Tensor] | None


def now() -> str:
    """The time as entries have it."""
    return datetime.now(UTC).isoformat(timespec="seconds")
