"""`ultraedit compare`: methods side by side, from the same base over the same edits."""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ultraedit.cli.options import (
    CasesFile,
    Device,
    Dtype,
    Json,
    Limit,
    Quiet,
    RemoteCode,
    TextFile,
    TurnSize,
    settings_of,
)
from ultraedit.errors import INTERRUPTED

if TYPE_CHECKING:
    from ultraedit.comparison.compare import Event
    from ultraedit.comparison.state import Comparison


def compare(
    model: Annotated[
        str,
        typer.Argument(
            help="Hub id, local folder, or `demo`; the base of all.", show_default=False
        ),
    ],
    file: CasesFile,
    out: Annotated[
        Path,
        typer.Option(
            "-o",
            "--out",
            help="Folder of the tables, the picture and every case's scores.",
            show_default=False,
        ),
    ],
    methods: Annotated[
        str | None,
        typer.Option(
            help="Names separated by commas, as `ultraedit methods` lists them; without it all that"
            " need no training, and no subject that a record lacks."
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="METHOD.NAME=VALUE",
            help="A method's own setting, or its modules or batch_tokens, as in ft.lr=1e-4;"
            " repeatable.",
        ),
    ] = None,
    turn_size: TurnSize = 100,
    at_once: Annotated[
        bool,
        typer.Option(
            help="Show methods that are published so (ft) once more with all edits in one turn."
        ),
    ] = True,
    generate: Annotated[
        bool, typer.Option("--generate", help="Also score free greedy answers.")
    ] = False,
    text: TextFile = None,
    append_eos: Annotated[
        bool | None,
        typer.Option(
            help="Write end-of-sequence after every target, or do not; by default as `edit` does."
        ),
    ] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="Wrap prompts in the model's chat template.")
    ] = False,
    batch_tokens: Annotated[
        int | None, typer.Option(min=1, help="Padded tokens of one pass; fewer need less memory.")
    ] = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    limit: Limit = None,
    save_seconds: Annotated[
        float, typer.Option(min=0, help="Seconds of editing between saves; a crash loses these.")
    ] = 30.0,
    keep_models: Annotated[
        bool, typer.Option("--keep-models", help="Keep every run's edited model in --out.")
    ] = False,
    remote_code: RemoteCode = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Compare methods: same base, same edits, same turns, all asked after all edits.

    Every run is a process of its own. The same command again goes on where it stopped, and may
    name further methods; the first interrupt lets the running turn end.
    """
    from ultraedit.cli.console import note, print_json, quiet_libraries, show, trust_code
    from ultraedit.comparison.compare import compare as carry_through
    from ultraedit.comparison.folder import held
    from ultraedit.comparison.plan import Options
    from ultraedit.comparison.prepare import prepare

    quiet_libraries()
    if remote_code:
        trust_code(model)
    own = _settings(settings)
    names = None if methods is None else [name.strip() for name in methods.split(",")]
    options = Options(
        generate=generate,
        text=None if text is None else str(text),
        append_eos=append_eos,
        chat=chat,
        batch_tokens=batch_tokens,
        dtype=dtype,
        device=device,
    )
    with held(out) as folder:
        plan = prepare(
            model, file, methods=names, settings=own, turn_size=turn_size, limit=limit,
            at_once=at_once, options=options,
        )  # fmt: skip
        with _watched(plan.edits, as_json or quiet) as on_progress:
            outcome = carry_through(
                folder,
                plan,
                command=shlex.join(["ultraedit", *(a for a in sys.argv[1:] if a != "--json")]),
                save_seconds=save_seconds,
                keep_models=keep_models,
                on_progress=on_progress,
            )
    if as_json:
        print_json(outcome.comparison.to_json())
    else:
        show(*_shown(outcome.comparison, out))
    if outcome.interrupted:
        if not as_json:
            note("interrupted: the same command goes on")
        raise typer.Exit(INTERRUPTED)
    if outcome.failed:
        raise typer.Exit(1)


def _settings(given: list[str] | None) -> dict[str, dict[str, Any]]:
    """What `--set` was given, by method.

    Raises:
        InputError: no METHOD.NAME=VALUE.
    """
    from ultraedit.errors import InputError

    found: dict[str, dict[str, Any]] = {}
    for pair in given or []:
        method, dot, setting = pair.partition(".")
        if not dot or "=" in method:
            raise InputError(f"--set takes METHOD.NAME=VALUE here, not {pair!r}")
        found.setdefault(method, {}).update(settings_of([setting], ()))
    return found


class _Bars:
    """Of one run: its own, and one for every part of it that it tells of.

    Args:
        title: The run's.
        total: How many edits and cases it will have done.
        quiet: Whether nothing is to be drawn.
    """

    def __init__(self, title: str, total: int, quiet: bool) -> None:
        from ultraedit.cli.console import progress_bars

        self.drawn = ExitStack()
        self._bar = self.drawn.enter_context(progress_bars(quiet))
        self.advance = self.drawn.enter_context(self._bar(title, total))
        self._parts: dict[str, tuple[ExitStack, Callable[[int], None]]] = {}
        self._done = Counter[str]()

    def part(self, what: str, done: int, total: int) -> None:
        """So much of a part is done; its bar goes when all is."""
        if what not in self._parts:
            drawn = self.drawn.enter_context(ExitStack())
            self._parts[what] = drawn, drawn.enter_context(self._bar(what, total))
        drawn, advance = self._parts[what]
        advance(done - self._done[what])
        self._done[what] = done
        if done >= total:
            drawn.close()
            del self._parts[what], self._done[what]


@contextmanager
def _watched(edits: int, as_json: bool) -> Iterator[Callable[[Event], None]]:
    """Yields a handler of events: it draws a run's progress bars, and prints a line at its end."""
    from ultraedit.cli.console import note

    with ExitStack() as stack:
        bars: _Bars | None = None

        def on_progress(event: Event) -> None:
            nonlocal bars
            if event.what == "begins":
                bars = _Bars(event.run.title, 2 * edits, as_json)
                stack.push(bars.drawn)
            elif bars is not None and event.total is not None:
                bars.part(event.what, event.count, event.total)
            elif bars is not None and event.what in ("edits", "cases"):
                bars.advance(event.count)
            else:
                stack.close()
                if not as_json:
                    reason = f": {event.reason}" if event.reason else ""
                    note(f"{event.run.title}: {event.what}{reason}")

        yield on_progress


def _shown(comparison: Comparison, out: Path) -> list[Any]:
    """The tables for a terminal, why runs failed, and where the files are."""
    from rich.table import Table as RichTable

    from ultraedit.comparison.table import costs, scores

    parts: list[Any] = []
    for table in (scores(comparison, reasons=False), costs(comparison)):
        first, *others = table.headers
        # Four kinds of scores fit 80 columns without a frame.
        shown = RichTable(first, show_edge=False, pad_edge=False)
        for header in others:
            shown.add_column(header, justify="right")
        for row in table.rows:
            shown.add_row(*row)
        parts += [shown, ""]
    for run in comparison.plan.runs:
        if run.name in comparison.failures:
            parts.append(f"{run.title} failed: {comparison.failures[run.name]}")
    parts.append(f"what the columns mean, every score and the picture: {out / 'comparison.md'}")
    return parts
