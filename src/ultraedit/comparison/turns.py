"""What every turn of a run cost, kept turn by turn so that interruptions do not falsify it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ultraedit.comparison.folder import write_text
from ultraedit.storage.atomic import named_failures


@dataclass(frozen=True)
class TurnRecord:
    """One turn.

    Attributes:
        edits: Of the turn.
        learned: How many of them the model answered when the turn was done.
        passes: How often shifts were applied.
        seconds: Reading ahead, editing and asking again; saving not counted.
        peak_bytes: The most memory held meanwhile; None where the system does not say.
        loaded_bytes: Memory held once the unedited model was loaded.
        kept_bytes: What the method keeps beside the model after it. Asked here, since a method
            that was loaded again may not have it before its next turn.
    """

    edits: int
    learned: int
    passes: int
    seconds: float
    peak_bytes: int | None
    loaded_bytes: int | None
    kept_bytes: int


class TurnLog:
    """The file of a run's turns.

    Args:
        path: The file; it need not be there.

    Attributes:
        turns: All of them so far.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.turns = _read(path)

    def rewind(self, edits: int) -> bool:
        """Keep the turns of the first `edits` edits, and forget what was made and not saved.

        Returns:
            Whether the file has the turns of all of them.

        Raises:
            UltraEditError: it cannot be written.
        """
        kept: list[TurnRecord] = []
        count = 0
        for turn in self.turns:
            if count + turn.edits > edits:
                break
            kept.append(turn)
            count += turn.edits
        if count < edits:
            return False
        self.turns = kept
        write_text(self.path, "".join(_line(turn) for turn in kept))
        return True

    def append(self, turn: TurnRecord) -> None:
        """Add a turn; it is on the disk for good after `sync`.

        Raises:
            UltraEditError: it cannot be written.
        """
        self.turns.append(turn)
        with named_failures(self.path), open(self.path, "a", encoding="utf-8") as file:
            file.write(_line(turn))

    def sync(self) -> None:
        """Bring the file to the disk.

        Raises:
            UltraEditError: that failed.
        """
        with named_failures(self.path), open(self.path, "rb") as file:
            os.fsync(file.fileno())


def _line(turn: TurnRecord) -> str:
    return json.dumps(asdict(turn)) + "\n"


def _read(path: Path) -> list[TurnRecord]:
    """The whole lines of the file; a kill may have cut the last one."""
    try:
        lines: Sequence[str] = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    turns = []
    for line in lines:
        try:
            turns.append(TurnRecord(**json.loads(line)))
        except (ValueError, TypeError):
            break
    return turns
