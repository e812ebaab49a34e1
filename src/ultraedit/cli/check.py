"""`ultraedit check`: did the edits move anything they should not have?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ultraedit.cli.options import Device, DeviceMap, Dtype, Json, Limit, RemoteCode

SHOWN = 10


def check(
    out: Annotated[str, typer.Argument(help="An edited model.", show_default=False)],
    probes: Annotated[
        str,
        typer.Option(
            help="Prompts whose answers must not change: the locality probes of the records"
            " in this file, or the prompts of records without any.",
            show_default=False,
        ),
    ],
    min_agreement: Annotated[
        float, typer.Option(min=0, max=1, help="Least share of unchanged answers.")
    ] = 0.99,
    base: Annotated[str | None, typer.Option(help="The model before editing.")] = None,
    limit: Limit = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    device_map: DeviceMap = None,
    remote_code: RemoteCode = False,
    as_json: Json = False,
) -> None:
    """Compare free answers with the unedited model's; exit with 1 if too many differ."""
    from ultraedit.cli.console import print_json, quiet_libraries, show, trust_code
    from ultraedit.cli.with_base import open_with_base
    from ultraedit.data import read_probes
    from ultraedit.errors import InputError
    from ultraedit.evaluation.agreement import agreement

    quiet_libraries()
    if remote_code:
        trust_code(out)
    if not Path(out).is_dir() and out != "demo":
        raise InputError(f"{out} is no folder; `check` reads an edited model")
    opened = open_with_base(out, base, dtype=dtype, device=device, device_map=device_map)
    if opened.unedited is None:
        raise InputError(f"{out} is no edited model; name the unedited one with --base")
    result = agreement(opened.workbench, read_probes(probes, limit=limit), unedited=opened.unedited)
    passed = result.share >= min_agreement
    if as_json:
        print_json(
            {
                "agreement": result.share,
                "min_agreement": min_agreement,
                "passed": passed,
                "probes": result.count,
                "changed": [change.to_dict() for change in result.changed],
            }
        )
    else:
        for change in result.changed[:SHOWN]:
            show(f"{change.id}: {change.prompt}\n    {change.before!r} -> {change.after!r}")
        if len(result.changed) > SHOWN:
            show(f"... and {len(result.changed) - SHOWN} more")
        verdict = "passed" if passed else "failed"
        show(
            f"{result.count - len(result.changed)} of {result.count} answers unchanged:"
            f" {result.share:.4f}, asked for {min_agreement:g}: {verdict}"
        )
    if not passed:
        raise typer.Exit(1)
