"""`ultraedit bench-build`: records for editing from the facts of a knowledge base."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from ultraedit.cli.options import Device, Dtype, Json, Quiet
from ultraedit.errors import INTERRUPTED, InputError


def bench_build(
    triples: Annotated[
        Path,
        typer.Argument(
            help="A table (.tsv .csv .parquet) with the columns subject, relation and object;"
            " Wikidata5M's id triples; or a folder with its files.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "-o",
            "--out",
            help="A .jsonl or .parquet file, or a folder for shards.",
            show_default=False,
        ),
    ],
    entities: Annotated[
        Path | None, typer.Option(help="Of id triples: the file of the entities' names.")
    ] = None,
    relations: Annotated[
        Path | None, typer.Option(help="Of id triples: the file of the relations' names.")
    ] = None,
    targets: Annotated[
        str, typer.Option(help="Answers to write: true, or counterfactual ones.")
    ] = "true",
    writer: Annotated[
        str,
        typer.Option(help="Of the questions: templates, chat (an endpoint), or a model to load."),
    ] = "templates",
    chat_model: Annotated[str, typer.Option(help="With --writer chat: the model's name.")] = "",
    base_url: Annotated[
        str | None, typer.Option(help="With --writer chat: the endpoint. [default: OpenAI's]")
    ] = None,
    api_key: Annotated[
        str, typer.Option(help="With --writer chat: the environment variable with the key.")
    ] = "OPENAI_API_KEY",
    concurrency: Annotated[int, typer.Option(min=1, help="Requests at one time.")] = 8,
    per_minute: Annotated[float | None, typer.Option(help="Most requests a minute.")] = None,
    max_cost: Annotated[float | None, typer.Option(help="Most dollars; needs the prices.")] = None,
    price_in: Annotated[float, typer.Option(help="Dollars of a million tokens read.")] = 0.0,
    price_out: Annotated[float, typer.Option(help="Dollars of a million tokens written.")] = 0.0,
    timeout: Annotated[float, typer.Option(help="Seconds for one reply.")] = 60.0,
    replies: Annotated[
        Path | None,
        typer.Option(help="Keep the replies here. [default: until the data set is whole]"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of every choice.")] = 0,
    limit: Annotated[int | None, typer.Option(min=1, help="Most records.")] = None,
    shuffle: Annotated[
        bool, typer.Option("--shuffle", help="Write the records in random order.")
    ] = False,
    shard: Annotated[int, typer.Option(min=1, help="Records of a file in a folder.")] = 100_000,
    shard_format: Annotated[
        str, typer.Option("--format", help="Of the files in a folder: parquet or jsonl.")
    ] = "parquet",
    dtype: Dtype = "auto",
    device: Device = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Build records for editing from the facts of a knowledge base.

    Each has a question, a rephrase and a question about another subject. A README.md beside the
    data describes it, so that `datasets` opens the folder. An interrupted build goes on where it
    stopped if the command is given again.
    """
    from ultraedit.benchmark_data.build import Plan, build
    from ultraedit.benchmark_data.chat_writer import ChatWriter
    from ultraedit.benchmark_data.make import TARGETS
    from ultraedit.benchmark_data.triples import Source
    from ultraedit.cli.console import note, print_json, progress_bars, quiet_libraries, show
    from ultraedit.history.interrupts import interruptible

    quiet_libraries()
    if targets not in TARGETS:
        raise InputError(f"--targets is {' or '.join(TARGETS)}, not {targets!r}")
    if shard_format not in ("jsonl", "parquet"):
        raise InputError(f"--format is jsonl or parquet, not {shard_format!r}")
    if max_cost is not None and not (price_in or price_out):
        raise InputError("--max-cost needs --price-in and --price-out")
    plan = Plan(
        Source.of(triples, entities, relations), out, targets=targets, seed=seed, limit=limit,  # type: ignore[arg-type]
        shuffle=shuffle, format=shard_format, shard=shard,  # type: ignore[arg-type]
    )  # fmt: skip
    with ExitStack() as stack:
        bar = stack.enter_context(progress_bars(as_json or quiet))
        interrupted = stack.enter_context(interruptible())
        plan.check_free()
        if writer == "chat":
            limits = {
                "concurrency": concurrency, "per_minute": per_minute, "cost": max_cost,
                "price_in": price_in, "price_out": price_out, "timeout": timeout,
            }  # fmt: skip
            found: Any = _chat(plan, chat_model, base_url, api_key, replies, limits, stack)
        elif writer == "templates":
            from ultraedit.benchmark_data.templates import TemplateWriter

            found = TemplateWriter(seed)
        else:
            from ultraedit import Editor
            from ultraedit.benchmark_data.model_writer import ModelWriter

            found = ModelWriter(
                Editor.from_pretrained(
                    writer, method="ultraedit", chat="off", dtype=dtype, device=device
                )
            )
        command = " ".join(["ultraedit", *sys.argv[1:]])
        built = build(plan, found, progress=bar, stop=interrupted, about=command)
        spent = (found.requests, round(found.cost, 6)) if isinstance(found, ChatWriter) else None
    if built is None:
        note("interrupted; the same command goes on")
        raise typer.Exit(INTERRUPTED)
    summary = {
        "records": built.tally.records, "facts": built.tally.facts,
        "refused": {name: n for name, n in built.tally.refused.most_common() if n},
        "relations": len(built.tally.relations), "duplicates": built.duplicates,
        "files": [str(path) for path in built.files], "card": str(built.card),
        "requests": spent and spent[0], "cost": spent and spent[1],
    }  # fmt: skip
    if as_json:
        print_json(summary)
        return
    for name, count in built.tally.refused.most_common():
        if count:
            show(f"{count:>12,} facts refused: {name}")
    show(
        f"{built.tally.records:,} records from {built.tally.facts:,} facts,"
        f" {len(built.tally.relations):,} relations: {built.files[0]}"
        + (f" and {len(built.files) - 1} more" if len(built.files) > 1 else "")
    )
    show(f"described in {built.card}")


def _chat(
    plan: Any,
    model: str,
    base_url: str | None,
    variable: str,
    replies: Path | None,
    limits: dict[str, Any],
    stack: ExitStack,
) -> Any:
    from ultraedit.benchmark_data.chat_writer import ChatWriter, Limits, Replies
    from ultraedit.storage.atomic import named_failures

    try:
        from openai import OpenAI
    except ImportError:
        raise InputError("--writer chat needs openai: pip install 'ultraedit[bench]'") from None
    if not model:
        raise InputError("--writer chat needs --chat-model")
    key = os.environ.get(variable)
    if not key and base_url is None:
        raise InputError(f"the environment variable {variable} holds no key")
    allowed = Limits(**limits)
    client = OpenAI(
        api_key=key or "none", base_url=base_url, max_retries=allowed.retries,
        timeout=allowed.timeout,
    )  # fmt: skip
    stack.callback(client.close)
    path = replies or plan.work / "replies.db"
    with named_failures(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    kept = Replies(path)
    stack.callback(kept.close)
    return ChatWriter(client, model, kept, allowed)
