"""From command names to functions."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated, Any

import typer

from ultraedit.cli.ability import ability
from ultraedit.cli.apply import apply
from ultraedit.cli.bench_build import bench_build
from ultraedit.cli.check import check
from ultraedit.cli.compare import compare
from ultraedit.cli.demo import demo
from ultraedit.cli.diff import diff
from ultraedit.cli.edit import edit
from ultraedit.cli.evaluate import evaluate
from ultraedit.cli.export import export
from ultraedit.cli.inspect import inspect
from ultraedit.cli.keys import keys
from ultraedit.cli.listings import methods, models
from ultraedit.cli.log import log
from ultraedit.cli.push import push
from ultraedit.cli.serve import serve
from ultraedit.cli.train import train
from ultraedit.cli.undo import undo

COMMANDS: dict[str, Callable[..., Any]] = {
    "demo": demo,
    "edit": edit,
    "train": train,
    "evaluate": evaluate,
    "check": check,
    "ability": ability,
    "compare": compare,
    "log": log,
    "diff": diff,
    "undo": undo,
    "export": export,
    "apply": apply,
    "push": push,
    "serve": serve,
    "inspect": inspect,
    "bench-build": bench_build,
    "methods": methods,
    "models": models,
}


def build_app() -> typer.Typer:
    app = typer.Typer(
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        help="Correct facts in Hugging Face causal language models, for good.",
        epilog="Exit codes: 0 done, 1 outside limits or failed, 2 bad input or usage, "
        "130 interrupted.",
    )
    app.callback()(_common)
    for name, function in COMMANDS.items():
        app.command(name)(function)
    app.add_typer(keys, name="keys")
    return app


def _say_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ultraedit {version('ultraedit')}")
        raise typer.Exit


def _common(
    show_version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_say_version, is_eager=True, help="Print the version and end."
        ),
    ] = False,
) -> None:
    pass
