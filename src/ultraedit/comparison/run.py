"""One run: one method from the unedited model through all edits, measured, then evaluated."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path

from ultraedit import Editor
from ultraedit.comparison.begin import begin, progress_of
from ultraedit.comparison.folder import Folder, RunFolder, as_text, write_text
from ultraedit.comparison.machine import machine
from ultraedit.comparison.memory import Memory
from ultraedit.comparison.plan import Plan, Run
from ultraedit.comparison.progress import RunProgress, part_progress, silent
from ultraedit.comparison.result import Cost, Result
from ultraedit.comparison.turns import TurnLog, TurnRecord
from ultraedit.data import read_cases
from ultraedit.evaluation.baseline import Baseline
from ultraedit.evaluation.report import CaseResult, Report
from ultraedit.history.interrupts import interruptible
from ultraedit.history.run import write_all
from ultraedit.records import Turn
from ultraedit.storage.atomic import Measured, discard, named_failures, write_file


def perform(
    plan: Plan,
    run: Run,
    comparison: Folder,
    *,
    save_seconds: float,
    keep_model: bool = False,
    stop: Callable[[], bool] = lambda: False,
    on_progress: RunProgress = silent,
) -> Result | None:
    """Carry a run through, from where it stopped if it was begun before.

    Args:
        plan: Whose run it is.
        run: Which.
        comparison: Where the files of all runs lie, or will.
        save_seconds: Seconds of editing from one save to the next; a crash loses these.
        keep_model: Whether the edited model stays when the result is there.
        stop: Asked before every turn.
        on_progress: Told how many more `edits`, and then `cases`, are done, and of what takes long.

    Returns:
        None where it was stopped or interrupted before all edits were written; what was
        written is saved.

    Raises:
        UltraEditError: the model cannot be edited by this method, an edit cannot be encoded, a
            turn was refused, or something cannot be written. What was written before is saved.
    """
    folder = comparison.run(run.name)
    log = TurnLog(folder.turns)
    editor, loaded = begin(plan, run, folder, log)
    progress = progress_of(editor, plan, run, folder)
    editor.workbench.progress = partial(part_progress, on_progress)
    on_progress("edits", progress.records)
    edits = (case.edit for case in read_cases(plan.file, limit=plan.limit))
    saver = _Saver(editor, folder, log, save_seconds)
    meter = _Meter(editor, loaded)

    def on_turn(turn: Turn) -> None:
        log.append(meter.record(turn))
        on_progress("edits", len(turn.edits))

    with interruptible() as interrupted:

        def ends() -> bool:
            if stop() or interrupted():
                return True
            meter.begin()
            return False

        outcome = write_all(
            editor,
            islice(edits, progress.window_start, None),
            progress,
            save=saver.after_turn,
            stop=ends,
            on_turn=on_turn,
        )
        saver.save()
    if outcome.failure is not None:
        raise outcome.failure
    if not outcome.progress.is_complete:
        return None
    report = _evaluate(editor, plan, folder, comparison.unedited, lambda: on_progress("cases", 1))
    result = Result(
        run,
        {
            "modules": editor.modules,
            "lr": getattr(editor.method, "lr", None),
            "batch_tokens": editor.workbench.batch_tokens,
        },
        machine(editor.workbench.device)
        | {"dtype": str(editor.model.dtype).removeprefix("torch.")},
        Cost.of(log.turns),
        report,
    )
    write_text(folder.result, as_text(result.to_json()))
    for left in (folder.cache, *(() if keep_model else (folder.model,))):
        with named_failures(left):
            discard(left)
    return result


class _Saver:
    """Saves the model now and then: not after every turn, of which there may be thousands."""

    def __init__(
        self, editor: Editor, folder: RunFolder, log: TurnLog, save_seconds: float
    ) -> None:
        self.editor, self.folder, self.log = editor, folder, log
        self.save_seconds = save_seconds
        self.saved = len(log.turns)
        self.waiting = 0.0

    def after_turn(self) -> None:
        """Save if enough has been edited since the last time."""
        self.waiting += self.log.turns[-1].seconds
        if self.waiting >= self.save_seconds:
            self.save()

    def save(self) -> None:
        """Save what is not saved yet; the turns' times first, which the model then vouches for."""
        if self.saved == len(self.log.turns):
            return
        self.log.sync()
        self.editor.save(self.folder.model)
        self.saved, self.waiting = len(self.log.turns), 0.0


class _Meter:
    """Seconds and peak memory of one turn after the other, without what lies between them."""

    def __init__(self, editor: Editor, loaded: int | None) -> None:
        self.method = editor.method
        self.memory = Memory(editor.workbench.device)
        self.loaded = loaded
        self.began = 0.0

    def begin(self) -> None:
        """A turn begins: it may first read edits of turns to come, which counts."""
        self.memory.watch()
        self.began = time.perf_counter()

    def record(self, turn: Turn) -> TurnRecord:
        """The turn that has just ended."""
        return TurnRecord(
            edits=len(turn.edits),
            learned=sum(turn.learned),
            passes=turn.passes,
            seconds=time.perf_counter() - self.began,
            peak_bytes=self.memory.peak(),
            loaded_bytes=self.loaded,
            kept_bytes=self.method.kept_bytes(),
        )


def _evaluate(
    editor: Editor, plan: Plan, folder: RunFolder, unedited: Path, on_case: Callable[[], None]
) -> Report:
    """Scores after all edits; every case's go to their file, which is whole or not there."""
    reports: list[Report] = []

    def fill(sink: Measured) -> None:
        def each(result: CaseResult) -> None:
            line = json.dumps(result.to_dict(), ensure_ascii=False) + "\n"
            sink.write(memoryview(line.encode()))
            on_case()

        reports.append(
            editor.evaluate(
                read_cases(plan.file, limit=plan.limit),
                generate=plan.options.generate,
                text=plan.options.text,
                keep_cases=False,
                on_case=each,
                kept_baseline=baseline,
            )
        )

    with Baseline(unedited) as baseline, named_failures(folder.cases):
        write_file(folder.cases, fill)
    return reports[0]
