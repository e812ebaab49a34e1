"""`ultraedit log`: what happened to an edited model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ultraedit.cli.options import Json, Out

if TYPE_CHECKING:
    from ultraedit.history.effect import InEffect
    from ultraedit.storage import Entry

# Laying out a table takes longer than anybody waits for a longer one.
MOST_IN_A_TABLE = 2000


def log(
    out: Out,
    edits: Annotated[bool, typer.Option("--edits", help="List every edit too.")] = False,
    last: Annotated[int | None, typer.Option(min=1, help="Only the last N entries.")] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Also read and check every file of the history.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show who wrote what and when, what was learned, and what was taken back.

    The numbers are those that `undo --to` takes; what is not kept it cannot go back to. Reads
    and checks the whole journal.
    """
    from ultraedit import storage
    from ultraedit.cli.console import print_json
    from ultraedit.history.effect import in_effect
    from ultraedit.history.verify import verify as check_all

    storage.settle_if_free(out)
    with storage.open_journal(out) as journal:
        head = journal.head()
        outline = journal.outline()
        effect = in_effect(outline, head.number)
        kept = storage.rebuildable(head, outline)
        first = 0 if last is None else max(head.number - last + 1, 0)
        rows = [
            _row(entry, effect, entry.number in kept, edits or as_json)
            for entry in journal.entries()
            if entry.number >= first
        ]
        settings = storage.parse_manifest(head.manifest, journal.path).settings
    result = {
        "out": str(out),
        "verified_files": check_all(out) if verify else None,
        "base": head.about["base"],
        "method": settings["method"],
        "turn": head.number,
        "turns": settings["turns"],
        "edits": settings["edits"],
        "entries": rows,
    }
    if as_json:
        return print_json(result)
    _show(result, edits)
    return None


def _row(entry: Entry, effect: InEffect, can_return: bool, with_edits: bool) -> dict[str, Any]:
    learned = [record.learned for record in entry.records]
    asked = entry.kind == "turn" and any(one is not None for one in learned)
    listed = entry.records if with_edits or entry.kind == "undo-edit" else ()
    return {
        "turn": entry.number,
        "kind": entry.kind,
        "of": entry.of,
        "time": entry.time,
        "author": entry.author,
        "turns": entry.turns,
        "count": len(entry.records),
        "learned": sum(map(bool, learned)) if asked else None,
        "passes": entry.passes,
        "seconds": entry.seconds,
        "in_effect": entry.number == 0 or entry.number in effect.entries,
        "can_return": can_return,
        "run": entry.run,
        "edits": [
            {
                "id": record.id,
                "prompt": record.prompt,
                "target": record.target,
                "subject": record.subject,
                "learned": record.learned,
                "in_effect": entry.number in effect.turns
                and (entry.number, place) not in effect.removed,
            }
            for place, record in enumerate(listed)
        ],
    }


def _show(result: dict[str, Any], with_edits: bool) -> None:
    from rich.table import Table

    from ultraedit.cli.console import show

    table = Table("turn", "when (UTC)", "who", "what", "")
    for row in result["entries"]:
        state = "in effect" if row["in_effect"] else "taken back"
        if row["kind"] in ("start", "undo"):
            state = ""
        if not row["can_return"]:
            state = f"{state}, not kept".removeprefix(", ")
        when = row["time"][:16].replace("T", " ")
        table.add_row(str(row["turn"]), when, row["author"], _what(row), state)
    show(
        f"{result['out']}: {result['edits']} edits in {result['turns']} turns"
        f" of {result['base']['name']}, method {result['method']}",
        table,
    )
    if result["verified_files"] is not None:
        show(f"{result['verified_files']} files of the history are as they were written")
    if not with_edits:
        return
    listed = Table("turn", "id", "prompt", "target", "learned", "in effect")
    rows = list(_edit_rows(result["entries"]))
    if len(rows) > MOST_IN_A_TABLE:
        for cells in rows:
            print(*cells, sep="\t")
        return
    for cells in rows:
        listed.add_row(*cells)
    show(listed)


def _edit_rows(entries: list[dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    for row in entries:
        for edit in row["edits"] if row["kind"] == "turn" else ():
            target = edit["target"] if isinstance(edit["target"], str) else edit["target"][0]
            flags = ("yes" if edit[name] else "no" for name in ("learned", "in_effect"))
            yield str(row["turn"]), edit["id"], edit["prompt"], target, *flags


def _what(row: dict[str, Any]) -> str:
    kind = row["kind"]
    if kind == "undo":
        return f"undo, back to {row['of']}"
    if kind == "undo-edit":
        return f"edit {row['edits'][0]['id']} of {row['of']} taken out"
    if kind == "gap":
        return f"unrecorded, up to {row['turns']} turns"
    if kind == "start":
        return "unedited"
    learned = "" if row["learned"] is None else f", {row['learned']} learned"
    return f"{row['count']} edits{learned}"
