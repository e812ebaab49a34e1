"""`ultraedit apply`: a base and a delta make the edited model again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ultraedit.cli.options import Json, RemoteCode


def apply(
    base: Annotated[
        str,
        typer.Argument(
            help="The unedited model: hub id, local folder, or `demo`.", show_default=False
        ),
    ],
    delta: Annotated[
        Path,
        typer.Argument(
            help="A file that `ultraedit export --format delta` wrote.", show_default=False
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="A folder that is not there yet or is empty.",
            show_default=False,
        ),
    ],
    remote_code: RemoteCode = False,
    as_json: Json = False,
) -> None:
    """Write a plain checkpoint of a model with a delta's edits in it.

    Refuses, with exit code 2, a damaged delta and a base that it was not made from.
    """
    from ultraedit.cli.console import print_json, quiet_libraries, show, trust_code
    from ultraedit.cli.export import written_line, written_result
    from ultraedit.export.apply import apply as apply_delta

    quiet_libraries()
    if remote_code:
        trust_code(base)
    written = apply_delta(base, delta, output)
    if as_json:
        print_json({**written_result(base, written), "delta": str(delta)})
    else:
        show(written_line(written))
