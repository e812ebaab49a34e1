"""Moving a set's edits into the set that it extends."""

from __future__ import annotations

from ultraedit.history.effect import edits_in_effect
from ultraedit.records import Edit
from ultraedit.service.audit import Audit
from ultraedit.service.errors import ApiError
from ultraedit.service.sets import Sets
from ultraedit.service.turns import undo
from ultraedit.storage import is_edited_model, open_journal


def promote(sets: Sets, audit: Audit, name: str, into: str, author: str) -> None:
    """Write a set's edits again in the set below, as one turn, and take them back in the set.

    They are learned anew, over the edits that are there; so they can be taken back one by one, and
    later edits there know of them. For the thread that edits.

    Raises:
        ApiError: the set has no edits.
        TurnRefusedError, InputError: the turn is refused; both sets are as they were.
    """
    out = sets.get(name).out
    records = edits_in_effect(out) if is_edited_model(out) else []
    if not records:
        raise ApiError(409, f"{name} has no edits to promote")
    edits = [Edit(one.prompt, one.target, one.subject, one.id or None) for one in records]
    entry = sets.get(name).counts()["entry"]
    editor = sets.editor(into)
    editor.pending.author = author
    asked = [{"author": author, "key": None, "edits": len(edits)}]
    editor.edit(edits, note={"jobs": asked, "promoted": {"set": name, "entry": entry}})
    sets.save(into)
    detail = {"from": name, "edits": [one.id for one in edits]}
    audit.write(author, into, "promote", {"entry": sets.get(into).counts()["entry"], **detail})
    undo(sets, audit, name, author, to=0)


def finish(sets: Sets, audit: Audit) -> None:
    """Take back what was promoted when the server stopped in between."""
    for name in sets.names():
        into = sets.get(name).described.extends
        if into is None or not is_edited_model(sets.get(name).out):
            continue
        if not is_edited_model(below := sets.get(into).out):
            continue
        with open_journal(below) as journal:
            last = journal.entry(journal.head().number)
        counts = sets.get(name).counts()
        promoted = (last.note or {}).get("promoted")
        if promoted == {"set": name, "entry": counts["entry"]} and counts["turns"]:
            undo(sets, audit, name, last.author, to=0)
