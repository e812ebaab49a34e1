"""The edits that taking one out is likeliest to touch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ultraedit.history.answers import Answer
from ultraedit.history.effect import in_effect, locate
from ultraedit.storage import EditRecord, Entry, Layout, open_journal
from ultraedit.storage.filerecord import check_size
from ultraedit.storage.shards import read_header, read_tensor

# Of other turns; more would be read than an answer to "did it hurt?" needs.
MOST = 50
MOST_TURNS = 100


@dataclass(frozen=True)
class Neighbour:
    """An edit before and after another one was taken out."""

    turn: int
    edit: EditRecord
    before: Answer
    after: Answer

    @property
    def changed(self) -> bool:
        return self.before != self.after

    def to_dict(self) -> dict[str, Any]:
        return {
            "turn": self.turn,
            "id": self.edit.id,
            "prompt": self.edit.prompt,
            "target": self.edit.target,
            "before": self.before.text,
            "after": self.after.text,
            "learned_before": self.before.learned,
            "learned_after": self.after.learned,
        }


def neighbours(out: Path, edit: str, turn: int | None) -> list[tuple[int, EditRecord]]:
    """The edit itself, the others of its turn, and those in effect with the likest keys.

    A row's shift acts along its key, so an edit is moved as much as its keys resemble those
    that are subtracted: the cosine in the first edited module, of the nearest hundred turns.

    Returns:
        Entry and edit; the edit that is to be taken out first.

    Raises:
        InputError: no such edit is in effect.
    """
    layout = Layout(out)
    with open_journal(out) as journal:
        head = journal.head()
        found, place = locate(journal, head, edit, turn)
        effect = in_effect(journal.outline(), head.number)
        entry = journal.entry(found)
        result = [(found, entry.records[place])]
        result += [
            (found, record)
            for number, record in enumerate(entry.records)
            if number != place and (found, number) not in effect.removed
        ]
        own = _keys(layout, entry) if found > head.factors_after else None
        if own is None:
            return result
        rows, edits = own
        wanted = rows[edits == place]
        if not len(wanted):
            return result  # it was known before its turn: nothing was written
        others = [n for n in effect.turns if n != found and n > head.factors_after]
        others = sorted(others, key=lambda n: abs(n - found))[:MOST_TURNS]
        alike: list[tuple[float, int, int]] = []
        for number in others:
            if (held := _keys(layout, journal.entry(number))) is None:
                continue
            held = held[0][held[1] >= 0], held[1][held[1] >= 0]
            if not len(held[0]):
                continue
            nearest = (held[0] @ wanted.T).amax(1)
            for one in sorted(set(held[1].tolist())):
                if (number, one) not in effect.removed:
                    alike.append((float(nearest[held[1] == one].max()), number, one))
        for _, number, one in sorted(alike, reverse=True)[:MOST]:
            result.append((number, journal.entry(number).records[one]))
    return result


def _keys(layout: Layout, entry: Entry) -> tuple[Tensor, Tensor] | None:
    """Unit keys of a turn's first pass in its first module, and the edit of each row."""
    if entry.factors is None:
        return None
    # For an order alone: a checksum would take reading all of up to a hundred files.
    path = layout.history / entry.factors.name
    check_size(path, entry.factors.size)
    header = read_header(path)
    left = next((k for k in header.tensors if k.startswith("0/") and k.endswith("/left")), None)
    if left is None:
        return None
    keys, edits = (
        read_tensor(path, header, left.removesuffix("left") + part) for part in ("left", "edits")
    )
    return torch.nn.functional.normalize(keys), edits
