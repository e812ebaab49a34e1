"""`ultraedit undo`: take edits back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ultraedit.cli.options import Author, Device, DeviceMap, Json, Out, RemoteCode

if TYPE_CHECKING:
    from ultraedit.history.undo import Undone

SHOWN = 10


def undo(
    out: Out,
    to: Annotated[
        int | None,
        typer.Option(min=0, help="Go back to the state after this turn; 0 is the unedited model."),
    ] = None,
    edit: Annotated[str | None, typer.Option(help="Take out the edit with this id.")] = None,
    turn: Annotated[
        int | None, typer.Option(min=1, help="With --edit: its turn, if the id was used twice.")
    ] = None,
    author: Author = None,
    device: Device = "auto",
    device_map: DeviceMap = None,
    remote_code: RemoteCode = False,
    as_json: Json = False,
) -> None:
    """Go back to an earlier turn, bit for bit, or take one edit out of the middle.

    `ultraedit log` shows the turns. An undo is an entry of the journal itself, so it can be
    undone like any other.
    """
    from ultraedit import Editor, storage
    from ultraedit.cli.console import note, print_json, quiet_libraries, trust_code
    from ultraedit.errors import InputError
    from ultraedit.history.undo import undo_to
    from ultraedit.records import check_text

    if (to is None) == (edit is None):
        raise InputError("undo takes either --to TURN or --edit ID")
    if turn is not None and edit is None:
        raise InputError("--turn goes with --edit")
    if author is not None:
        check_text(author, "author")
    storage.open_journal(out).close()
    quiet_libraries()
    if remote_code:
        trust_code(str(out))
    if to is not None:
        with storage.lock(out):
            undone = undo_to(out, to, author)
    else:
        options = {} if author is None else {"author": author}
        editor = Editor.load(out, options=options, device=device, device_map=device_map)
        undone = editor.undo(edit=edit, turn=turn)
    if undone.exact is False and not as_json:
        note(
            "warning: the weights differ in bits from those written then; turns are repeated"
            " exactly only by the same kind of machine"
        )
    if as_json:
        return print_json({"out": str(out), **undone.to_dict()})
    _show(str(out), undone)
    return None


def _show(out: str, undone: Undone) -> None:
    from rich.table import Table

    from ultraedit.cli.console import show

    if undone.removed is None:
        exact = {True: ", bit for bit what was written then", False: "", None: ""}[undone.exact]
        show(f"{out} is as after turn {undone.to}{exact}")
    else:
        removed = undone.removed
        show(
            f"edit {removed.edit.id} is taken out of turn {undone.to}: {removed.edit.prompt}",
            f"    {removed.before.text!r} -> {removed.after.text!r}",
        )
        changed = [one for one in undone.neighbours if one.changed]
        before = sum(one.before.learned for one in undone.neighbours)
        after = sum(one.after.learned for one in undone.neighbours)
        show(
            f"of its {len(undone.neighbours)} nearest edits {before} were right, {after} are;"
            f" {len(changed)} are answered differently"
        )
        if changed:
            table = Table("turn", "id", "prompt", "target", "before", "after")
            for one in changed[:SHOWN]:
                row = one.to_dict()
                table.add_row(*(_text(row[name]) for name in (
                    "turn", "id", "prompt", "target", "before", "after")))  # fmt: skip
            show(table)
            if len(changed) > SHOWN:
                show(f"... and {len(changed) - SHOWN} more")
    show(f"{undone.edits} edits in {undone.turns} turns are in effect; this is turn {undone.entry}")


def _text(value: Any) -> str:
    return str(value if isinstance(value, (str, int)) else value[0])
