"""A comparison carried through: run after run, and all that is known after each of them."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass, replace
from functools import partial

from ultraedit.comparison.folder import Folder, as_text, write_text
from ultraedit.comparison.page import page
from ultraedit.comparison.picture import picture
from ultraedit.comparison.plan import Plan, Run, joined
from ultraedit.comparison.process import carry_out
from ultraedit.comparison.state import Comparison, read_comparison, read_result
from ultraedit.storage.atomic import discard, named_failures


@dataclass(frozen=True)
class Event:
    """What has just happened.

    Attributes:
        run: In which run.
        what: It `begins`; so many more `edits` or `cases` are done; a part of it, by its name;
            it is `done`, `failed`, or `stopped` before its end.
        count: Of edits or cases, or how far the part is.
        total: How far the part goes; None of everything else.
        reason: Why it failed.
    """

    run: Run
    what: str
    count: int = 0
    total: int | None = None
    reason: str = ""


@dataclass(frozen=True)
class Outcome:
    """What a call did.

    Attributes:
        comparison: As it stands now.
        failed: Runs of this call that failed.
        interrupted: Whether it was ended before all its runs were.
    """

    comparison: Comparison
    failed: tuple[Run, ...] = ()
    interrupted: bool = False


def compare(
    folder: Folder,
    plan: Plan,
    *,
    command: str = "",
    save_seconds: float = 30.0,
    keep_models: bool = False,
    on_progress: Callable[[Event], None] = lambda event: None,
) -> Outcome:
    """Carry out every run of a plan that is not done, one after the other.

    Every run is a process of its own. Tables and picture are written after each of them.

    Args:
        folder: From `folder.held`; a comparison that is there is continued.
        plan: From `prepare.prepare`.
        command: What the caller was called with, for the page.
        save_seconds: Seconds of editing from one save to the next; a crash loses these.
        keep_models: Whether edited models stay when their results are there.
        on_progress: Told of what happens.

    Raises:
        InputError: the folder holds a comparison of something else, or is damaged.
        UltraEditError: something cannot be written.
    """
    begun = read_comparison(folder)
    comparison = Comparison(plan)
    if begun is not None:
        merged = joined(folder.out, begun.plan, plan, _free(folder, begun))
        _make_room(folder, begun.plan, merged)
        comparison = replace(begun, plan=merged)
    left = [run for run in plan.runs if run.name not in comparison.results]
    if left:
        comparison = comparison.with_command(command)
    _write(folder, comparison)
    failed: list[Run] = []
    for run in left:
        comparison = comparison.without_failure(run)
        on_progress(Event(run, "begins"))
        ended = carry_out(
            folder,
            run,
            save_seconds=save_seconds,
            keep_model=keep_models,
            on_progress=partial(_handed_on, on_progress, run),
        )
        on_progress(Event(run, ended.how, reason=ended.reason))
        result = read_result(folder, run) if ended.how == "done" else None
        if result is not None:
            comparison = comparison.with_result(result)
        if ended.how == "failed":
            failed.append(run)
            comparison = comparison.with_failure(run, ended.reason)
        _write(folder, comparison)
        if ended.interrupted:
            done = all(run.name in comparison.results for run in plan.runs)
            return Outcome(comparison, tuple(failed), interrupted=not done)
    return Outcome(comparison, tuple(failed))


def _handed_on(
    on_progress: Callable[[Event], None], run: Run, what: str, count: int, total: int | None = None
) -> None:
    on_progress(Event(run, what, count, total))


def _free(folder: Folder, begun: Comparison) -> Container[str]:
    """Runs without anything that other settings would make false."""
    names = (run.name for run in begun.plan.runs)
    return {n for n in names if n in begun.failures or not folder.run(n).path.exists()}


def _make_room(folder: Folder, begun: Plan, merged: Plan) -> None:
    """What a failed run left does not fit its new settings."""
    for run in begun.runs:
        path = folder.run(run.name).path
        if merged.run(run.name) != run and path.exists():
            with named_failures(path):
                discard(path)


def _write(folder: Folder, comparison: Comparison) -> None:
    write_text(folder.summary, as_text(comparison.to_json()))
    drawn = picture(comparison)
    if drawn is not None:
        write_text(folder.picture, drawn)
    write_text(folder.page, page(comparison, folder.picture.name if drawn else None))
