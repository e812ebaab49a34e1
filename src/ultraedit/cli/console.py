"""What people see: tables and progress, and nothing where a machine reads."""

from __future__ import annotations

import json
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
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
    ("ends_earlier", "ends earlier"),
    ("routed", "routed"),
)

# Seconds from one line of progress to the next, where no bar can be drawn.
SHORTEST, LONGEST = 2.0, 10.0

Bar = AbstractContextManager[Callable[[int], None]]


def quiet_libraries() -> None:
    """Keep other libraries' bars and notes off the terminal, and warnings to one line.

    For the command line, whose process is its own.
    """
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.showwarning = lambda message, *_, **__: note(f"warning: {message}")


def trust_code(model: str) -> None:
    """What `--trust-remote-code` does: remember the code of a model as what may be run.

    Raises:
        InputError: there is no such model.
    """
    from huggingface_hub import snapshot_download

    from ultraedit.errors import InputError
    from ultraedit.models.load import resolve
    from ultraedit.models.remote_code import trust

    source = resolve(model)
    if not Path(source).is_dir():
        try:
            source = snapshot_download(source, allow_patterns=["*.py", "*.json"])
        except (OSError, ValueError) as error:
            raise InputError(f"{model} could not be loaded: {str(error).splitlines()[0]}") from None
    trust(Path(source))


def print_json(value: Mapping[str, Any] | list[Any]) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False, default=str))


def note(text: str) -> None:
    """A remark for people; standard output stays clean."""
    print(text, file=sys.stderr)


@contextmanager
def progress_bars(quiet: bool) -> Iterator[Callable[[str, int | None], Bar]]:
    """Yields `bar(label, total)`, a context that yields `advance(n)`; bars may stand together.

    Draws on a terminal, writes lines to standard error elsewhere, and does nothing if `quiet`.
    """
    if quiet:
        yield lambda label, total: nullcontext(lambda n: None)
        return
    if not (sys.stdout.isatty() and sys.stderr.isatty()):
        yield progress_lines
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
def progress_lines(
    label: str, total: int | None, clock: Callable[[], float] = time.monotonic
) -> Iterator[Callable[[int], None]]:
    """Where nothing can be redrawn: a line every ten seconds, and at every tenth.

    Tenths that pass within `SHORTEST` seconds of the last line are left out, and so what takes no
    longer says nothing.
    """
    began = said = clock()
    done = tenth = 0
    ended = threading.Event()

    def say() -> None:
        nonlocal said
        said = clock()
        taken = said - began
        if not total:
            note(f"{label}: {f'{done}, ' if done else ''}{taken:.0f} s")
            return
        left = f", about {taken / done * max(total - done, 0):.0f} s left" if done else ""
        note(f"{label}: {done} of {total}, {taken:.0f} s{left}")

    def advance(steps: int) -> None:
        nonlocal done, tenth
        done += steps
        reached = 10 * done // total if total else 0
        if reached > tenth and clock() - said >= SHORTEST:
            tenth = reached
            say()

    def watch() -> None:
        # One step may take minutes.
        while not ended.wait(LONGEST):
            if clock() - said >= LONGEST / 2:
                say()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield advance
    finally:
        ended.set()
        thread.join()


@contextmanager
def progress_bar(label: str, total: int | None, quiet: bool) -> Iterator[Callable[[int], None]]:
    """One of `progress_bars`, by itself."""
    with progress_bars(quiet) as bar, bar(label, total) as advance:
        yield advance


def report_table(report: Report, title: str = "", is_sample: bool = False) -> Table:
    """Before and after, a line per kind of question; of a sample with 95% intervals."""
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
            row.append(_change(report, kind, metric, is_sample))
        table.add_row(*row)
    if report.perplexity:
        table.caption = "perplexity " + " -> ".join(
            "not finite" if v is None else f"{v:.2f}" for v in report.perplexity.values()
        )
    return table


def _change(report: Report, kind: str, metric: str, is_sample: bool) -> Text:
    after = report.after[kind].get(metric)
    before = report.before.get(kind, {}).get(metric)
    if after is None:
        return Text()
    shown = Text(f"{after:.3f}", style="bold")
    if is_sample:
        low, high = report.intervals()[kind][metric]
        shown = Text.assemble(shown, f" [{low:.3f}, {high:.3f}]")
    if before is None or metric.startswith(("agreement", "ends_earlier", "routed")):
        return shown
    return Text.assemble(f"{before:.3f} -> ", shown)


def show(*parts: Any) -> None:
    """Print tables and lines; square brackets in a line are only brackets."""
    console = Console(highlight=False, markup=False)
    for part in parts:
        console.print(part)
