"""`ultraedit evaluate`: what a model answers now, and what it answered before."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ultraedit.cli.options import (
    CasesFile,
    Device,
    DeviceMap,
    Dtype,
    Json,
    Limit,
    Model,
    PerCase,
    Quiet,
    RemoteCode,
    TextFile,
)

if TYPE_CHECKING:
    from ultraedit.records import Case

SEED = 0


def evaluate(
    model: Model,
    file: CasesFile,
    base: Annotated[
        str | None,
        typer.Option(help="The model before editing; an edited model knows its own."),
    ] = None,
    generate: Annotated[
        bool, typer.Option("--generate", help="Also score free greedy answers.")
    ] = False,
    sample: Annotated[
        int | None,
        typer.Option(
            min=1, help="Evaluate N random cases (the same ones every time), with 95% intervals."
        ),
    ] = None,
    limit: Limit = None,
    per_case: PerCase = None,
    text: TextFile = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="Wrap prompts in the model's chat template.")
    ] = False,
    dtype: Dtype = "auto",
    device: Device = "auto",
    device_map: DeviceMap = None,
    remote_code: RemoteCode = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Score a model on a file of cases, beside the model it was before editing."""
    from ultraedit.cli.console import (
        print_json,
        progress_bar,
        quiet_libraries,
        report_table,
        show,
        trust_code,
    )
    from ultraedit.cli.with_base import open_with_base
    from ultraedit.data import read_cases
    from ultraedit.evaluation.evaluate import evaluate as run

    quiet_libraries()
    if remote_code:
        trust_code(model)
    opened = open_with_base(
        model, base, chat=chat, dtype=dtype, device=device, device_map=device_map
    )
    cases: Iterable[Case] = read_cases(file, limit=limit)
    if sample is not None:
        cases = draw(cases, sample)
    with ExitStack() as stack:
        on_case = stack.enter_context(_case_writer(per_case))
        advance = stack.enter_context(progress_bar("evaluating", sample or limit, as_json or quiet))

        def each(result: Any) -> None:
            on_case(result)
            advance(1)

        report = run(
            opened.workbench,
            cases,
            unedited=opened.unedited,
            generate=generate,
            text=text,
            keep_cases=False,
            on_case=each,
        )
    if as_json:
        return print_json({"model": model, "base": opened.base, "file": file, **report.to_dict()})
    show(report_table(report, is_sample=sample is not None))
    return None


def draw(cases: Iterable[Case], count: int) -> list[Case]:
    """`count` cases drawn without replacement in one pass, in their order."""
    rng = random.Random(SEED)
    kept: list[tuple[int, Case]] = []
    for place, case in enumerate(cases):
        if len(kept) < count:
            kept.append((place, case))
        elif (slot := rng.randrange(place + 1)) < count:
            kept[slot] = place, case
    return [case for _, case in sorted(kept, key=lambda pair: pair[0])]


@contextmanager
def _case_writer(path: Any) -> Iterator[Any]:
    from ultraedit.errors import InputError

    if path is None:
        yield lambda result: None
        return
    try:
        file = path.open("w", encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from None
    with file:
        yield lambda result: file.write(json.dumps(result.to_dict(), ensure_ascii=False) + "\n")
