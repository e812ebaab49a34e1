"""What people see: tables, one progress bar, and nothing where a machine reads."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from ultraedit.evaluation.report import KINDS, Report

COLUMNS = (
    ("token_accuracy", "token"),
    ("exact_match", "exact"),
    ("generation", "generated"),
    ("agreement", "agreement"),
    ("agreement_exact", "agreement exact"),
    ("routed", "routed"),
)

Bar = AbstractContextManager[Callable[[int], None]]


def quiet_libraries() -> None:
    """Keep transformers' own bars and notes off the terminal."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def print_json(value: Mapping[str, Any] | list[Any]) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False, default=str))


def note(text: str) -> None:
    """A remark for people; standard output stays clean."""
    print(text, file=sys.stderr)


@contextmanager
def progress_bars(quiet: bool) -> Iterator[Callable[[str, int | None], Bar]]:
    """Yields `bar(label, total)`, a context that yields `advance(n)`; bars may stand together.

    Draws nothing if `quiet` or where output is no terminal.
    """
    if quiet or not (sys.stdout.isatty() and sys.stderr.isatty()):
        yield lambda label, total: nullcontext(lambda n: None)
        return
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        console=Console(stderr=True), transient=True,
    ) as progress:  # fmt: skip

        @contextmanager
        def bar(label: str, total: int | None) -> Iterator[Callable[[int], None]]:
            task = progress.add_task(label, total=total)
            try:
                yield lambda n: progress.advance(task, n)
            finally:
                progress.remove_task(task)

        yield bar


@contextmanager
def progress_bar(label: str, total: int | None, quiet: bool) -> Iterator[Callable[[int], None]]:
    """One of `progress_bars`, by itself."""
    with progress_bars(quiet) as bar, bar(label, total) as advance:
        yield advance


def report_table(report: Report, title: str = "") -> Table:
    """Before and after, a line per kind of question."""
    shown = [
        (metric, label)
        for metric, label in COLUMNS
        if any(metric in scores for scores in report.after.values())
    ]
    table = Table(title=title or f"{report.count} cases, after all edits", title_justify="left")
    table.add_column("question")
    table.add_column("cases", justify="right")
    for _, label in shown:
        table.add_column(label, justify="right")
    for kind in KINDS:
        if kind not in report.after:
            continue
        row: list[str | Text] = [kind, str(report.counts.get(kind, 0))]
        for metric, _ in shown:
            row.append(_change(report, kind, metric))
        table.add_row(*row)
    if report.perplexity:
        table.caption = "perplexity " + " -> ".join(
            "not finite" if v is None else f"{v:.2f}" for v in report.perplexity.values()
        )
    return table


def _change(report: Report, kind: str, metric: str) -> Text:
    after = report.after[kind].get(metric)
    before = report.before.get(kind, {}).get(metric)
    if after is None:
        return Text()
    if before is None or metric.startswith(("agreement", "routed")):
        return Text(f"{after:.3f}", style="bold")
    return Text.assemble(f"{before:.3f} -> ", (f"{after:.3f}", "bold"))


def show(*parts: Any) -> None:
    """Print tables and lines; square brackets in a line are only brackets."""
    console = Console(highlight=False, markup=False)
    for part in parts:
        console.print(part)
