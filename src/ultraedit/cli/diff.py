"""`ultraedit diff`: which facts two states answer differently."""

from __future__ import annotations

from typing import Annotated

import typer

from ultraedit.cli.options import Device, DeviceMap, Dtype, Json, Limit, RemoteCode

SHOWN = 30


def diff(
    a: Annotated[
        str,
        typer.Argument(
            help="An edited model, one after a turn (OUT@TURN), or any model.", show_default=False
        ),
    ],
    b: Annotated[str, typer.Argument(help="Likewise.", show_default=False)],
    facts: Annotated[
        str | None,
        typer.Option(help="A file of facts to ask. (default: the edits in either journal)"),
    ] = None,
    limit: Limit = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    device_map: DeviceMap = None,
    remote_code: RemoteCode = False,
    as_json: Json = False,
) -> None:
    """Ask two states the same facts and show where their answers differ."""
    from itertools import islice

    from ultraedit.cli.answer_difference import ModelVersion, difference, facts_of
    from ultraedit.cli.console import print_json, quiet_libraries, show, trust_code
    from ultraedit.data import read_cases
    from ultraedit.storage import EditRecord

    quiet_libraries()
    first, second = ModelVersion.parse(a), ModelVersion.parse(b)
    if remote_code:
        for state in (first, second):
            trust_code(state.folder)
    if facts is None:
        asked = list(islice(facts_of(first, second), limit))
    else:
        asked = [
            EditRecord(case.edit.id or "", case.edit.prompt, case.edit.target, case.edit.subject)
            for case in read_cases(facts, limit=limit)
        ]
    found = difference(first, second, asked, dtype=dtype, device=device, device_map=device_map)
    if as_json:
        return print_json(
            {"a": a, "b": b, "facts": len(asked), "different": [one.to_dict() for one in found]}
        )
    from rich.table import Table

    show(f"{len(found)} of {len(asked)} facts are answered differently")
    if found:
        table = Table("id", "prompt", "target", a, b)
        for one in found[:SHOWN]:
            target = one.edit.target if isinstance(one.edit.target, str) else one.edit.target[0]
            table.add_row(one.edit.id, one.edit.prompt, target, one.first.text, one.second.text)
        show(table)
        if len(found) > SHOWN:
            show(f"... and {len(found) - SHOWN} more")
    return None
