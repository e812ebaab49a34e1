"""`ultraedit ability`: what editing did to everything else the model can do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ultraedit.cli.options import Device, DeviceMap, Dtype, Json, Model, Quiet, RemoteCode

if TYPE_CHECKING:
    from ultraedit.ability.report import AbilityReport, Row


def ability(
    out: Model,
    tasks: Annotated[
        str,
        typer.Option(
            help="Tasks of lm-eval, separated by commas, as in arc_easy,piqa. With --data, names of"
            " files there.",
            show_default=False,
        ),
    ],
    data: Annotated[
        Path | None,
        typer.Option(
            help="A folder of task files (YAML), of NAME.jsonl files for the ready-made tasks"
            " (arc_easy, arc_challenge, piqa, openbook_qa, boolq, winogrande, lambada_openai,"
            " triviaqa_sm_sub, gsm8k, mmlu), or of both. A file here goes before a task of"
            " lm-eval of the same name."
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first N documents of each task.")
    ] = None,
    shots: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Solved examples before every document. (default: as each task says)",
            show_default=False,
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(help="The model before editing; an edited model knows its own."),
    ] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="Wrap prompts in the model's chat template.")
    ] = False,
    batch_size: Annotated[
        str, typer.Option(help="Texts in one pass; `auto` finds the most that a GPU holds.")
    ] = "8",
    dtype: Dtype = "auto",
    device: Device = "auto",
    device_map: DeviceMap = None,
    remote_code: RemoteCode = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Run lm-eval on the edited and on the unedited model.

    Shows both scores and their difference, paired over the same documents, with its 95%
    interval: the normal interval of the mean difference. Needs the extra `eval`.
    """
    from ultraedit.ability.harness import open_harness
    from ultraedit.ability.loading import require_harness
    from ultraedit.ability.measuring import Beside, measure
    from ultraedit.cli.console import print_json, progress_bars, quiet_libraries, show, trust_code
    from ultraedit.cli.with_base import open_with_base

    quiet_libraries()
    if remote_code:
        trust_code(out)
    size = _size(batch_size)
    with progress_bars(as_json or quiet) as bar:
        with bar("starting lm-eval", None):
            require_harness()
        # Tasks first: a wrong name should not cost the loading of a model.
        harness = open_harness(tasks.split(","), data=data, shots=shots, progress=bar)
        with bar("loading the model", None):
            opened = open_with_base(out, base, dtype=dtype, device=device, device_map=device_map)
        beside = Beside(
            lambda: opened.workbench.model,
            opened.workbench.tokenizer,
            opened.unedited,
            opened.routes,
        )
        report = measure(beside, harness, limit=limit, chat=chat, batch_size=size, progress=bar)
    if as_json:
        return print_json({"model": out, "base": opened.base, "limit": limit, **report.to_dict()})
    show(*_shown(report))
    return None


def _size(given: str) -> int | str:
    """A number where it is one; the rest is refused where the model is known."""
    return int(given) if given.strip().isdecimal() else given.strip()


def _shown(report: AbilityReport) -> Iterator[Any]:
    from rich.table import Table

    paired = any(row.before is not None for row in report.rows)
    # Without a frame, tasks with long names fit 80 columns too.
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("task")
    table.add_column("metric")
    numbers = ["docs", "before", "after", "change"] if paired else ["docs", "score"]
    for header in numbers:
        table.add_column(header, justify="right", no_wrap=True)
    if paired:
        table.add_column(f"{report.confidence:.0%} interval", justify="right", no_wrap=True)
    for row in report.rows:
        table.add_row(*_cells(row, paired))
    yield table
    yield ""
    yield from _notes(report, paired)


def _notes(report: AbilityReport, paired: bool) -> Iterator[str]:
    for name, source in report.sources.items():
        yield f"{name}: {source}"
    lower = {row.after.metric for row in report.rows if row.after.higher_is_better is False}
    if lower:
        yield f"lower is better: {', '.join(sorted(lower))}"
    if paired:
        yield "change: after minus before, paired by document; normal interval of the mean"


def _cells(row: Row, paired: bool) -> list[str]:
    score = row.after
    cells = [score.task, score.metric, str(score.count)]
    if score.filter:
        cells[1] += f" ({score.filter})"
    if paired:
        cells.append("" if row.before is None else _number(row.before))
    cells.append(_number(score.value))
    found = row.difference
    if paired and found is not None:
        cells.append(f"{found.mean:+.3f}")
        if found.low is not None and found.high is not None:
            cells.append(f"{found.low:+.3f} {found.high:+.3f}")
    return cells


def _number(value: float) -> str:
    """Three decimals, and powers of ten where a perplexity has no bounds."""
    return f"{value:.3f}" if abs(value) < 1e4 else f"{value:.2e}"
