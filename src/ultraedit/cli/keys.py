"""`ultraedit keys`: who may use a server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from ultraedit.cli.options import Json
from ultraedit.errors import InputError

if TYPE_CHECKING:
    from ultraedit.service.keys import Key, Keys, Role

Data = Annotated[
    Path, typer.Option("--data", help="The server's folder.", metavar="DIR", show_default=False)
]
Name = Annotated[str, typer.Argument(help="Who the key is for.", show_default=False)]

keys = typer.Typer(no_args_is_help=True, help="Make, list and revoke the keys of a server.")


@keys.command()
def create(
    name: Name,
    data: Data,
    role: Annotated[str, typer.Option(help="reader, editor or admin.", show_default=False)],
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="An edit set it is for, * for all; repeatable. Needless for an admin."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a key and print it, this once.

    A reader asks and lists edits, an editor also edits and undoes, an admin may do everything. A
    running server knows the key within a second.
    """
    from ultraedit.cli.console import note, print_json

    if not sets and role != "admin":
        raise InputError("say which edit sets the key is for: --set NAME, or --set '*' for all")
    about: dict[str, Any] = {"name": name, "role": role, "sets": sets or ["*"]}
    secret = _open(data).create(name, cast("Role", role), about["sets"])
    _log(data, "keys.create", about)
    if as_json:
        print_json({**about, "key": secret})
        return
    note("The key is not kept and cannot be shown again:")
    print(secret)


@keys.command("list")
def list_keys(data: Data, as_json: Json = False) -> None:
    """List the keys by name; the keys themselves are not kept."""
    from rich.table import Table

    from ultraedit.cli.console import print_json, show

    found = _open(data).list()
    if as_json:
        print_json([_about(key) for key in found])
        return
    table = Table("name", "role", "edit sets")
    for key in found:
        table.add_row(key.name, key.role, ", ".join(key.sets))
    show(table)


@keys.command()
def revoke(name: Name, data: Data) -> None:
    """Take a key back; a running server refuses it within a second."""
    from ultraedit.cli.console import show

    _open(data).revoke(name)
    _log(data, "keys.revoke", {"name": name})
    show(f"{name} has no key any more")


def _open(data: Path) -> Keys:
    try:
        from ultraedit.service.keys import Keys
    except ImportError as error:
        raise InputError(
            f"a server needs more packages: pip install 'ultraedit[serve]' ({error})"
        ) from error
    return Keys(data)


def _about(key: Key) -> dict[str, Any]:
    return {"name": key.name, "role": key.role, "sets": list(key.sets)}


def _log(data: Path, action: str, detail: dict[str, Any]) -> None:
    from ultraedit.history.pending import this_user
    from ultraedit.service.audit import FILE, Audit

    Audit(data / FILE).write(this_user(), None, action, detail)
