"""`ultraedit edit`: write a file of facts into a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from inspect import signature
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ultraedit.cli.edit_output import refusals, show_faults, show_plan, show_summary
from ultraedit.cli.options import (
    Author,
    CasesFile,
    Device,
    DeviceMap,
    Dtype,
    Frozen,
    Json,
    Limit,
    MethodName,
    Model,
    Modules,
    Quiet,
    RemoteCode,
    Settings,
    TurnSize,
    settings_of,
)
from ultraedit.errors import INTERRUPTED

if TYPE_CHECKING:
    from ultraedit.records import Case


def edit(
    model: Model,
    file: CasesFile,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", help="Folder of the edited model; without it nothing is saved."
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on where an interrupted run with the same --out stopped."
        ),
    ] = False,
    method: MethodName = "auto",
    modules: Modules = "auto",
    lr: Annotated[str, typer.Option(help="auto, or the step (eta) as a number.")] = "auto",
    settings: Settings = None,
    turn_size: TurnSize = 100,
    append_eos: Annotated[
        bool | None,
        typer.Option(
            help="Write end-of-sequence after every target, or do not."
            " [default: in a chat template, or where the model has none]"
        ),
    ] = None,
    chat: Annotated[
        str | None,
        typer.Option(
            help="In which forms an edit has to hold: only (in the chat template), off (as plain"
            " text) or both. [default: both, where the model has a template]"
        ),
    ] = None,
    system: Annotated[
        str | None, typer.Option(help="The system message in the chat template.")
    ] = None,
    template: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE", help="Of the chat template, as enable_thinking=false; repeatable."
        ),
    ] = None,
    batch_tokens: Annotated[
        int | None, typer.Option(min=1, help="Padded tokens of one pass; fewer need less memory.")
    ] = None,
    lookahead: Annotated[
        int,
        typer.Option(
            min=0, help="Turns read through the frozen blocks at once; 0 for about 1,000 edits."
        ),
    ] = 0,
    check_learned: Annotated[
        bool, typer.Option(help="Ask every turn's edits again when it is written, or do not.")
    ] = True,
    dtype: Dtype = "auto",
    device: Device = "auto",
    device_map: DeviceMap = None,
    frozen: Frozen = None,
    limit: Limit = None,
    evaluate: Annotated[
        bool | None,
        typer.Option(help="Evaluate all cases afterwards. (default: only without --out)"),
    ] = None,
    save_every: Annotated[
        int, typer.Option(min=1, help="Turns from one save to the next; a crash loses these.")
    ] = 1,
    history: Annotated[
        str | None,
        typer.Option(help="Turns that can be undone: full, a number, or none. (default: full)"),
    ] = None,
    no_journal: Annotated[
        bool, typer.Option("--no-journal", help="The same as --history none.", hidden=True)
    ] = False,
    author: Author = None,
    trained: Annotated[
        Path | None,
        typer.Option(help="What `ultraedit train` wrote, for a method that needs training."),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Read and check everything, list faults; change nothing."),
    ] = False,
    skip_invalid: Annotated[
        bool,
        typer.Option(
            "--skip-invalid",
            help="Leave records out that cannot be used; they go to OUT.refused.jsonl, with why.",
        ),
    ] = False,
    quiet: Quiet = False,
    remote_code: RemoteCode = False,
    as_json: Json = False,
) -> None:
    """Write a file of facts into a model, turn by turn.

    The model is saved after every turn. --resume continues a run that was interrupted or killed.
    The first interrupt lets the current turn finish.
    """
    from ultraedit import Editor, storage
    from ultraedit.cli.console import (
        note,
        print_json,
        progress_bar,
        progress_bars,
        quiet_libraries,
        trust_code,
    )
    from ultraedit.data import read_cases
    from ultraedit.errors import InputError
    from ultraedit.history.interrupts import interruptible
    from ultraedit.history.run import Progress, resumed, runs_of, write_all
    from ultraedit.saved import check_base

    quiet_libraries()
    if remote_code:
        trust_code(model)
    step = _number(lr)
    if no_journal and history not in (None, "none"):
        raise InputError(f"--no-journal is --history none, and contradicts --history {history}")
    source = _source(model, out, resume)
    own = settings_of(
        settings, {*signature(Editor).parameters, *signature(Editor.from_pretrained).parameters}
    )
    given: dict[str, Any] = {
        "history": "none" if no_journal else history, "author": author, "system": system,
        "trained": trained,
        "template": settings_of(template, (), "--template") if template else None,
    }  # fmt: skip
    with ExitStack() as stack:
        if out is not None and not dry_run:
            stack.enter_context(storage.lock(out))
            if storage.is_edited_model(out):
                storage.settle(out)
        editor = Editor.from_pretrained(
            source, method=method, modules=modules, lr=step, append_eos=append_eos, chat=chat,
            batch_tokens=batch_tokens, check_learned=check_learned,
            dtype=dtype, device=device, device_map=device_map, frozen=frozen,
            **{name: value for name, value in given.items() if value is not None}, **own,
        )  # fmt: skip
        if batch_tokens and resume and not as_json:
            note("warning: other batches round differently; the bits may not be the same")
        if out is None:
            editor.pending.active = False
        elif resume and source != model:
            check_base(editor, model, out)
        with refusals(None if dry_run else out) as refused:
            on_fault = refused if skip_invalid or dry_run else None
            checked = read_cases(file, limit=limit, check=editor.check, on_fault=on_fault)
            count, contradictions = _count(checked)
        if dry_run and refused.count and not skip_invalid:
            return show_faults(file, refused, as_json)
        if skip_invalid and refused.count and not count:
            raise InputError(f"{file}: no record can be used; {refused.summary()}")

        def cases() -> Iterator[Case]:
            """The file once more, less what was refused."""
            if not refused.count:
                return read_cases(file, limit=limit)
            return read_cases(file, limit=limit, check=editor.check, on_fault=lambda fault: None)

        if refused.count and not as_json:
            note(f"warning: left out {refused.summary()}")
        if contradictions and not as_json:
            note(f"warning: {contradictions}; in one turn both are written, later turns win")
        progress = Progress(file, turn_size, count, lookahead=lookahead)
        if resume and out is not None and storage.is_edited_model(out):
            written = (case.edit for case in cases())
            progress = resumed(runs_of(editor, out), progress, written)
        progress = progress.resolved()
        begun = progress.records
        summary: dict[str, Any] = {
            "model": model, "file": file,
            "method": editor.method.info.name, "modules": editor.modules,
            "resumed_at": begun if resume else None,
            "edits": count - begun, "turns": -(-(count - begun) // turn_size),
            "refused": refused.count, "contradictions": contradictions,
            "out": None if out is None else str(out),
        }  # fmt: skip
        if dry_run:
            return show_plan(summary | {"dry_run": True}, editor, turn_size, as_json)
        if editor.method.info.prepares and not editor.turns and not as_json:
            note(f"before the first turn: {editor.method.info.prepares}")
        edits = (case.edit for case in islice(cases(), progress.window_start, None))
        with (
            progress_bars(as_json or quiet) as bar,
            bar("editing", count - begun) as advance,
            interruptible() as interrupted,
        ):
            editor.workbench.progress = bar
            outcome = write_all(
                editor,
                edits,
                progress,
                save=None if out is None else lambda: editor.save(out, locked=True),
                save_every=save_every,
                stop=interrupted,
                on_turn=lambda turn: advance(len(turn.edits)),
            )
        if outcome.failure:
            if outcome.turns and out is not None:
                note(f"the {outcome.edits} edits before it are saved in {out}; --resume goes on")
            raise outcome.failure
        report = None
        if not interrupted() and (evaluate or (evaluate is None and out is None)):
            with progress_bar("evaluating", count, as_json or quiet) as advance:
                report = editor.evaluate(
                    cases(),
                    keep_cases=False,
                    on_case=lambda result: advance(1),
                )
        summary |= {
            "edits": outcome.edits,
            "turns": outcome.turns,
            "learned": outcome.edits - len(outcome.not_learned) if check_learned else None,
            "not_learned": outcome.not_learned,
            "not_learned_chat": outcome.not_learned_chat if editor.chat == "both" else None,
            "lr": getattr(editor.method, "lr", None),
            "seconds": round(outcome.seconds, 3),
            "interrupted": interrupted(),
            "report": report.to_dict() if report else None,
        }
        if as_json:
            print_json(summary)
        else:
            show_summary(summary, report, count)
    if interrupted():
        raise typer.Exit(INTERRUPTED)
    return None


def _source(model: str, out: Path | None, resume: bool) -> str:
    """What to load: the model, or the edited model in `out` that a resumed run continues.

    Raises:
        InputError: `out` may not be written to, or there is nothing to resume in.
    """
    from ultraedit import storage
    from ultraedit.cli.console import note
    from ultraedit.errors import InputError
    from ultraedit.models.load import resolve

    if out is None:
        if resume:
            raise InputError("--resume needs --out, the folder of the interrupted run")
        return model
    if resume and storage.is_edited_model(out) and not Path(model).exists():
        # The base may be gone, or elsewhere; `check_base` knows it by name.
        return str(out)
    source = Path(resolve(model))
    if out.exists() and source.exists() and out.samefile(source):
        return model
    storage.check_destination(out)
    if not storage.is_edited_model(out):
        if resume:
            note(f"nothing is written in {out} yet: beginning")
        return model
    if not resume:
        raise InputError(
            f"{out} is an edited model; --resume goes on with an interrupted run, and to write"
            " more into it name it as the model too"
        )
    return str(out)


def _number(lr: str) -> float | str:
    from ultraedit.errors import InputError

    if lr == "auto":
        return lr
    try:
        return float(lr)
    except ValueError:
        raise InputError(f"--lr is auto or a number, not {lr!r}") from None


def _count(cases: Iterator[Case]) -> tuple[int, str]:
    """How many cases there are, and which contradict each other."""
    from ultraedit.data import Contradictions

    seen = Contradictions()
    for case in cases:
        seen.add(case)
    return len(seen), seen.summary() if seen.find() else ""
