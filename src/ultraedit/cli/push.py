"""`ultraedit push`: bring edits into a server that is running."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from ultraedit.cli.options import Json, Out, Quiet
from ultraedit.errors import InputError


def push(
    out: Out,
    engine: Annotated[
        str, typer.Option("--to", help="vllm, sglang or llamacpp.", show_default=False)
    ],
    url: Annotated[str, typer.Option(help="The server's address.", show_default=False)],
    name: Annotated[
        str, typer.Option(help="The edited model's name for clients of the server.")
    ] = "edited",
    form: Annotated[
        str | None,
        typer.Option("--as", help="For vllm and sglang: adapter or weights. [default: adapter]"),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(help="Where versions are written; the server reads it. [default: OUT.pushed]"),
    ] = None,
    models_dir: Annotated[
        Path | None, typer.Option(help="For llamacpp: the folder that its router reads.")
    ] = None,
    rank: Annotated[int | None, typer.Option(min=1, help="Rank of the adapter.")] = None,
    kind: Annotated[str, typer.Option("--type", help="For llamacpp, as in `export`.")] = "f16",
    base_as: Annotated[
        str | None, typer.Option(help="What the server calls the base, if it cannot be seen.")
    ] = None,
    ask: Annotated[int, typer.Option(min=0, help="Edits to ask the server afterwards.")] = 8,
    least: Annotated[
        float, typer.Option(min=0, max=1, help="Share of these that has to hold.")
    ] = 1.0,
    key: Annotated[
        str, typer.Option(help="The environment variable with the server's key, if it has one.")
    ] = "OPENAI_API_KEY",
    timeout: Annotated[float, typer.Option(help="Seconds for one call.")] = 120.0,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on: push every new turn and every undo.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the calls and send none.")
    ] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Make a running server answer with these edits.

    The server is asked some of them. If a call fails or an edit does not hold, the version before
    comes back.
    """
    from ultraedit.cli.console import note, print_json, quiet_libraries, show
    from ultraedit.history.interrupts import interruptible
    from ultraedit.serving.engines import ENGINES, LlamaCpp
    from ultraedit.serving.push import Pushed
    from ultraedit.serving.push import push as push_once
    from ultraedit.serving.push import watch as push_all
    from ultraedit.serving.server import Server

    quiet_libraries()
    if engine not in ENGINES:
        raise InputError(f"--to is one of {', '.join(ENGINES)}, not {engine!r}")
    if dry_run and watch:
        raise InputError("--dry-run and --watch exclude each other")
    server = Server(url, os.environ.get(key), timeout=timeout, tell=print if dry_run else None)
    made = (
        LlamaCpp(server, name, models_dir)
        if engine == "llamacpp"
        else ENGINES[engine](server, name)
    )
    options: dict[str, Any] = {
        "form": form, "folder": folder, "rank": rank, "kind": kind, "base_as": base_as,
        "asked": ask, "least": least,
    }  # fmt: skip

    def tell(pushed: Pushed) -> None:
        if as_json:
            print_json({"name": name, "engine": engine, "url": server.url, **pushed.to_dict()})
        elif not pushed.changed:
            show(f"{server.url} has this state already")
        elif pushed.version is None:
            show(f"{server.url} has no edits any more: {name} is the base again")
        else:
            show(
                f"{server.url} answers as {name} with version {pushed.version.number}:"
                f" {pushed.holding} of {pushed.asked} edits that were asked hold"
            )

    try:
        if not watch:
            pushed = push_once(out, made, **options)
            if not dry_run:
                tell(pushed)
            return
        with interruptible() as interrupted:

            def stop(seconds: float) -> bool:
                end = time.monotonic() + seconds
                while time.monotonic() < end and not interrupted():
                    time.sleep(min(0.2, seconds))
                return interrupted()

            push_all(
                out, made, on_push=tell, stop=stop, **options,
                on_failure=lambda error: note(f"error: {error}"),
            )  # fmt: skip
    finally:
        server.close()
