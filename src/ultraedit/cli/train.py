"""`ultraedit train`: fit a method that has to be trained before it edits."""

from __future__ import annotations

from inspect import signature
from pathlib import Path
from typing import Annotated

import typer

from ultraedit.cli.options import (
    CasesFile,
    Device,
    DeviceMap,
    Dtype,
    Json,
    Limit,
    Model,
    Modules,
    Quiet,
    RemoteCode,
    Settings,
    settings_of,
)


def train(
    method: Annotated[
        str, typer.Argument(help="A method that needs training.", show_default=False)
    ],
    model: Model,
    file: CasesFile,
    out: Annotated[
        Path,
        typer.Option("-o", "--out", help="File for what was learned.", show_default=False),
    ],
    modules: Modules = "auto",
    settings: Settings = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    device_map: DeviceMap = None,
    limit: Limit = None,
    quiet: Quiet = False,
    remote_code: RemoteCode = False,
    as_json: Json = False,
) -> None:
    """Train a method on records other than those that it is going to write.

    `ultraedit edit --method METHOD --trained FILE` then edits the same model with it.
    """
    from ultraedit import Editor
    from ultraedit.cli.console import print_json, progress_bars, quiet_libraries, show, trust_code
    from ultraedit.data import read_cases
    from ultraedit.errors import InputError
    from ultraedit.methods.registry import method_class

    quiet_libraries()
    if not method_class(method).info.needs_training:
        raise InputError(f"method {method} needs no training")
    if remote_code:
        trust_code(model)
    own = settings_of(
        settings, {*signature(Editor).parameters, *signature(Editor.from_pretrained).parameters}
    )
    editor = Editor.from_pretrained(
        model, method=method, modules=modules, dtype=dtype, device=device, device_map=device_map,
        **own,
    )  # fmt: skip
    with progress_bars(as_json or quiet) as bar:
        editor.workbench.progress = bar
        cases = list(read_cases(file, limit=limit, check=editor.check))
        trained = editor.train(cases)
    trained.write(out)
    summary = {
        "method": method, "model": model, "file": file, "cases": len(cases), "out": str(out),
        "sha256": trained.digest,
    }  # fmt: skip
    if as_json:
        print_json(summary)
    else:
        show(f"trained {method} on {len(cases)} records: {out}")
