"""Options that several commands share, worded once."""

from __future__ import annotations

import json
from collections.abc import Container
from pathlib import Path
from typing import Annotated, Any

import typer

from ultraedit.errors import InputError

Model = Annotated[
    str,
    typer.Argument(
        help="Hub id, local folder, .gguf file, an edited model, smollm2, gemma3-270m, or demo.",
        show_default=False,
    ),
]
Out = Annotated[Path, typer.Argument(help="An edited model.", show_default=False)]
CasesFile = Annotated[
    str,
    typer.Argument(
        help="Edits with their probes: .jsonl .json .csv .parquet or hf:NAME[:split].",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Do not say how far the work is.")]
RemoteCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        help="Run code that comes with the model. Remembered for an edited model whose code it is.",
    ),
]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]
DeviceMap = Annotated[
    str | None,
    typer.Option(help="Spread the model with accelerate, e.g. `auto`; in place of --device."),
]
Frozen = Annotated[
    str | None,
    typer.Option(
        help="How blocks below the first edited one are held: resident, int8 or int4 (quantised"
        " in memory), cpu or disk (off the device). (default: resident, or as in --out)"
    ),
]
MethodName = Annotated[str, typer.Option(help="`auto`, or a name that `ultraedit methods` lists.")]
Modules = Annotated[
    str, typer.Option(help="`auto`, or module names separated by commas; see `ultraedit inspect`.")
]
TurnSize = Annotated[int, typer.Option(min=1, help="Edits written at once.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Read only the first N records.")]
Author = Annotated[
    str | None, typer.Option(help="Who makes the change, for the journal. (default: user@host)")
]
PerCase = Annotated[
    Path | None, typer.Option(help="Write every case's scores to this .jsonl, joined by id.")
]
TextFile = Annotated[
    Path | None, typer.Option(help="Also measure perplexity on this text file, before and after.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="NAME=VALUE", help="A setting of the method, as in passes=5; repeatable."
    ),
]


def settings_of(
    given: list[str] | None, taken: Container[str], option: str = "--set"
) -> dict[str, Any]:
    """What an option was given, by name: numbers as numbers, anything else as it stands.

    Args:
        given: NAME=VALUE each.
        taken: Names that are no method's.
        option: Which one.

    Raises:
        InputError: no NAME=VALUE, or a name that is taken.
    """
    found: dict[str, Any] = {}
    for pair in given or []:
        name, equals, value = pair.partition("=")
        if not equals or not name.isidentifier():
            raise InputError(f"{option} takes NAME=VALUE, not {pair!r}")
        if name in taken:
            raise InputError(f"--set is for a method's own settings; {name} is none")
        try:
            found[name] = json.loads(value)
        except json.JSONDecodeError:
            found[name] = value
    return found
