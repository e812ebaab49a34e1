"""Taking edits back: to a whole earlier state exactly, or a single edit out of the middle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ultraedit.errors import InputError
from ultraedit.history.effect import locate
from ultraedit.history.neighbours import Neighbour
from ultraedit.history.pending import this_user
from ultraedit.history.rebuild import (
    apply_shifts,
    check_rebuildable,
    current,
    rebuild,
    served,
)
from ultraedit.linalg.shift import LowRank, Shift
from ultraedit.linalg.threads import threads
from ultraedit.methods.registry import available, method_class
from ultraedit.records import Edit
from ultraedit.storage import (
    Change,
    EditRecord,
    Entry,
    Head,
    Layout,
    Snapshot,
    Update,
    checksums,
    now,
    open_journal,
    parse_manifest,
    read_factors,
    read_manifest,
    settle,
    write,
)
from ultraedit.storage.constants import Constants, separate, together


@dataclass(frozen=True)
class Undone:
    """What an undo did.

    Attributes:
        entry: Number of the undo's own entry.
        to: The entry whose state came back, or the turn an edit was taken out of.
        turns: Turns in effect now.
        edits: Edits in effect now.
        exact: For a whole state: whether the files are bit for bit those that were written
            then; None where that state was never written to disk.
        removed: The edit that was taken out, with what the model said before and says now.
        neighbours: The same of the edits that this is likeliest to have touched.
    """

    entry: int
    to: int
    turns: int
    edits: int
    exact: bool | None = None
    removed: Neighbour | None = None
    neighbours: tuple[Neighbour, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """For JSON; of the neighbours those that are answered differently now."""
        result: dict[str, Any] = {
            "turn": self.entry,
            "to" if self.removed is None else "of": self.to,
            "turns": self.turns,
            "edits": self.edits,
        }
        if self.removed is None:
            return result | {"exact": self.exact}
        return result | {
            "removed": self.removed.to_dict(),
            "neighbours": len(self.neighbours),
            "learned_before": sum(one.before.learned for one in self.neighbours),
            "learned_after": sum(one.after.learned for one in self.neighbours),
            "changed": [one.to_dict() for one in self.neighbours if one.changed],
        }


def undo_to(out: Path, number: int, author: str | None = None) -> Undone:
    """Bring back the weights and statistics after entry `number`; 0 is the unedited model.

    Later entries stay in the journal, so an undo can itself be undone. The caller holds the
    folder's lock.

    Raises:
        InputError: there is no such state, or it is not kept.
        UltraEditError: it cannot be written.
    """
    settle(out)
    with open_journal(out) as journal:
        journal.verify()
        head, digest = journal.head(), journal.head_digest()
        then = check_rebuildable(journal, head, number)
    if number == head.number:
        raise InputError(f"{out} is at turn {number} already")
    snapshot = rebuild(out, number)
    entry = Entry(
        "undo", now(), author or this_user(), then.turns, then.edits, of=number, run=then.run
    )
    _write(out, snapshot, head, digest, Change(entry, None, None))
    exact = None
    if number == 0:
        exact = True
    elif then.written is not None:
        made = checksums(read_manifest(out))
        # A state that follows from the history has no file.
        exact = all(
            made.get(what) == sha256
            for what, sha256 in then.written.items()
            if what in made or what != "state"
        )
    return Undone(head.number + 1, number, then.turns, then.edits, exact)


def undo_edit(out: Path, edit: str, turn: int | None = None, author: str | None = None) -> Undone:
    """Subtract what one edit's rows contributed; statistics stay as they are.

    Turns after it were solved on weights that had the edit in them, so this is not the model
    that would have come about without it. The caller holds the folder's lock.

    Args:
        out: The edited model.
        edit: Its id; of several in effect the newest.
        turn: The entry of its turn, to name another one.
        author: Who takes it back.

    Raises:
        InputError: no such edit is in effect, its shift is not kept apart from the others', or
            is not kept.
        UltraEditError: it cannot be written.
    """
    settle(out)
    layout = Layout(out)
    with open_journal(out) as journal:
        journal.verify()
        head, digest = journal.head(), journal.head_digest()
        found, place = locate(journal, head, edit, turn)
        name = str(parse_manifest(head.manifest, layout.journal).settings["method"])
        kind = available().get(name)
        if kind is not None and not kind.info.tells_edits_apart:
            raise InputError(
                f"method {name} cannot tell the edits of a turn apart; `undo --to` takes back"
                " whole turns"
            )
        entry = journal.entry(found)
        kept = _kept_shifts(layout, head, entry)
        passes = contribution(kept, entry.number, place)
    snapshot = current(out)
    masters = dict(snapshot.masters)
    with threads(snapshot.settings["threads"]):
        for shifts in passes:
            masters = apply_shifts(masters, shifts, head, entry.device)
    settings = dict(snapshot.settings)
    settings["edits"] -= 1
    state, constants, record = snapshot.state, snapshot.constants, None
    if not any(kept):
        try:
            state, constants, record = _forgotten(snapshot, entry.records[place])
        except NotImplementedError:
            raise InputError(
                f"turn {found} changed no weights, so no edit can be subtracted; use `undo --to`"
            ) from None
    after = Snapshot(
        served=served(masters, snapshot.originals),
        masters=masters,
        originals=snapshot.originals,
        state=state,
        settings=settings,
        version=snapshot.version,
        constants=constants,
    )
    made = Entry(
        "undo-edit", now(), author or this_user(), settings["turns"], settings["edits"],
        passes=len(passes), of=found, place=place, run=settings.get("run"),
        device=entry.device, records=(entry.records[place],),
    )  # fmt: skip
    _write(out, after, head, digest, Change(made, passes, record))
    return Undone(head.number + 1, found, made.turns, made.edits)


def _kept_shifts(layout: Layout, head: Head, entry: Entry) -> list[dict[str, Shift]]:
    """The shifts of a turn, pass by pass.

    Raises:
        InputError: they are not kept.
    """
    if entry.factors is None or entry.number <= head.factors_after:
        raise InputError(
            f"the shifts of turn {entry.number} are not kept; `undo --to` brings back a whole state"
        )
    passes, _ = read_factors(layout.history, entry.factors)
    return passes


def _forgotten(
    snapshot: Snapshot, record: EditRecord
) -> tuple[dict[str, Tensor], Constants, dict[str, Tensor]]:
    """The method's state without an edit, its constants, and what it records of the change."""
    assert snapshot.state is not None
    settings = snapshot.settings
    method = method_class(settings["method"]).with_settings(settings["method_settings"])
    method.load_state_dict(together(snapshot.state, snapshot.constants))
    method.forget(Edit(record.prompt, record.target, record.subject, record.id))
    state, constants = separate(method.state_dict(), method.is_constant, snapshot.constants)
    record_of_it, _ = separate(method.record(), method.is_constant, constants)
    return state, constants, record_of_it


def contribution(
    passes: Sequence[Mapping[str, Shift]], number: int, place: int
) -> list[Mapping[str, Shift]]:
    """What takes the rows of one edit out again, pass by pass.

    Args:
        passes: The shifts of its turn.
        number: The entry of the turn.
        place: Of the edit in the turn.

    Raises:
        InputError: the rows are not kept apart.
    """
    result: list[Mapping[str, Shift]] = []
    for shifts in passes:
        rows: dict[str, Shift] = {}
        for module, shift in shifts.items():
            if not isinstance(shift, LowRank):
                raise InputError(
                    f"turn {number} changed {module} as a whole, so no edit can be"
                    " subtracted; use `undo --to`"
                )
            own = shift.of_edits(torch.tensor([place]))
            if len(own.edit_index):
                rows[module] = own.scaled(-1.0)
        if rows:
            result.append(rows)
    return result


def _write(out: Path, snapshot: Snapshot, head: Head, digest: str, change: Change) -> None:
    update = Update(
        [change],
        change.entry.author,
        {},
        head.about,
        head.keep,
        head.snapshot_every,
        digest,
        replayable=str(snapshot.settings["method"]) in available(),
    )
    write(out, snapshot, model=None, tokenizer=None, source=None, update=update)
