"""A file of edits, written turn by turn and saved as it goes, so that it can be resumed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ultraedit.errors import InputError, UltraEditError
from ultraedit.forward.prefix import LOOKAHEAD_EDITS
from ultraedit.history.effect import in_effect
from ultraedit.records import Edit, Turn
from ultraedit.storage import Layout, open_journal

if TYPE_CHECKING:
    from ultraedit.session import Session


AUTO_LOOKAHEAD = 0


@dataclass(frozen=True)
class Progress:
    """How far a run has read its file.

    Attributes:
        file: As the caller named it, for people.
        turn_size: Edits of a turn; other turns would give other weights.
        total: Records of the file when the run began.
        records: Records read so far.
        digest: Over the edits read so far: tells the file from another, and lets it grow.
        lookahead: Turns whose edits are read through the frozen blocks at once. Windows are
            counted from the file's beginning, so a resumed run rounds as a whole one does.
    """

    file: str
    turn_size: int
    total: int
    records: int = 0
    digest: str = ""
    lookahead: int = 1

    def resolved(self) -> Progress:
        """With a lookahead of its own choice where it was left open."""
        if self.lookahead != AUTO_LOOKAHEAD:
            return self
        return replace(self, lookahead=max(1, LOOKAHEAD_EDITS // self.turn_size))

    @property
    def window(self) -> int:
        """Edits that are read at once."""
        return self.turn_size * self.lookahead

    @property
    def window_start(self) -> int:
        """Records before the window that the next turn is in."""
        return self.records - self.records % self.window

    def after(self, edits: Iterable[Edit]) -> Progress:
        """The progress once these are read too."""
        records, digest = self.records, self.digest
        for edit in edits:
            content = [edit.prompt, edit.target, edit.subject, edit.id]
            digest = hashlib.sha256((digest + json.dumps(content)).encode()).hexdigest()
            records += 1
        return replace(self, records=records, digest=digest)

    def to_json(self) -> dict[str, Any]:
        """What an edited model's settings hold of it."""
        return asdict(self)

    @staticmethod
    def of_json(content: Mapping[str, Any]) -> Progress:
        """The progress that `to_json` gave."""
        return Progress(**content)

    @property
    def is_complete(self) -> bool:
        """Whether the file, as it was when the run began, is read to its end."""
        return self.records >= self.total


def runs_of(editor: Session, out: Path) -> list[Progress]:
    """How far each file was read that is in effect in `out`, the last one first.

    Without a journal only the last one is known.
    """
    runs = [] if editor.run is None else [Progress.of_json(editor.run)]
    if not Layout(out).journal.is_file():
        return runs
    with open_journal(out) as journal:
        turns = in_effect(journal.outline(), journal.head().number).turns
        for number in reversed(turns):
            run = journal.entry(number).run
            if run is not None and all(run["file"] != known.file for known in runs):
                runs.append(Progress.of_json(run))
    return runs


def resumed(runs: Sequence[Progress], begun: Progress, edits: Iterable[Edit]) -> Progress:
    """Where to go on: where one of the runs stopped, or at the beginning.

    Args:
        runs: How far files were read before, the last one first.
        begun: The run as it would begin now.
        edits: The file from its beginning; read as far as any of the runs.

    Raises:
        InputError: the file, or the size of a turn, is not what its run was begun with; or
            another file's run was interrupted.
    """
    longest = max((run.records for run in runs), default=0)
    wanted = {run.records for run in runs}
    read = {0: begun}
    at = begun
    for edit in islice(edits, longest):
        at = at.after([edit])
        if at.records in wanted:
            read[at.records] = at
    for run in runs:
        found = read.get(run.records)
        if found is None or found.digest != run.digest:
            continue
        if run.turn_size != begun.turn_size:
            raise InputError(
                f"the run was begun with turns of {run.turn_size}, it cannot go on with"
                f" {begun.turn_size}"
            )
        if begun.lookahead not in (AUTO_LOOKAHEAD, run.lookahead):
            raise InputError(
                f"the run was begun with a lookahead of {run.lookahead} turns, it cannot go on"
                f" with {begun.lookahead}"
            )
        return replace(found, lookahead=run.lookahead)
    for run in runs:
        if run.file == begun.file:
            raise InputError(
                f"{begun.file} does not begin with the {run.records} edits that were written from"
                " it; what is new is written without --resume, naming the edited model as the"
                " model"
            )
    if runs and not runs[0].is_complete:
        raise InputError(
            f"{begun.file} is not the file that the interrupted run was begun with, {runs[0].file}"
        )
    return begun.resolved()


@dataclass
class Outcome:
    """What a run did.

    Attributes:
        progress: How far it came.
        turns: Turns made.
        seconds: Spent in turns.
        not_learned: Ids of the edits that their own turn did not teach.
        not_learned_chat: The same in the chat template, where edits are written in both forms.
        failure: What ended it early.
    """

    progress: Progress
    turns: int = 0
    edits: int = 0
    seconds: float = 0.0
    not_learned: list[str] = field(default_factory=list)
    not_learned_chat: list[str] = field(default_factory=list)
    failure: UltraEditError | None = None


def write_all(
    editor: Session,
    edits: Iterator[Edit],
    progress: Progress,
    *,
    save: Callable[[], None] | None,
    save_every: int = 1,
    stop: Callable[[], bool] = lambda: False,
    on_turn: Callable[[Turn], None] = lambda turn: None,
) -> Outcome:
    """Write edits turn by turn; the model is saved after every `save_every` turns and last.

    Args:
        editor: Whose model is edited.
        edits: The file from `progress.window_start` on.
        progress: How far their file was read before them.
        save: Saves the model; None saves nothing.
        save_every: Turns from one save to the next.
        stop: Asked before every turn.
        on_turn: Told of every turn.

    Raises:
        UltraEditError: saving failed.
    """
    outcome = Outcome(progress)
    unsaved, saving = 0, False
    try:
        for batch in _batches(editor, edits, progress, stop):
            _turn(editor, batch, outcome, on_turn)
            unsaved += 1
            if save is not None and unsaved == save_every:
                saving = True
                save()
                unsaved, saving = 0, False
    except UltraEditError as error:
        if saving:
            raise
        outcome.failure = error
    finally:
        editor.workbench.forget()
    # What was written before a turn failed is good, and may have taken hours.
    if save is not None and unsaved:
        save()
    return outcome


def _batches(
    editor: Session, edits: Iterator[Edit], progress: Progress, stop: Callable[[], bool]
) -> Iterator[list[Edit]]:
    """The edits turn by turn, every window of them read ahead."""
    done = progress.records - progress.window_start
    while window := list(islice(edits, progress.window)):
        for start in range(done, len(window), progress.turn_size):
            if stop():
                return
            if start == done and progress.lookahead > 1:
                editor.look_ahead(window, done)
            yield window[start : start + progress.turn_size]
        done = 0


def _turn(
    editor: Session, batch: Sequence[Edit], outcome: Outcome, on_turn: Callable[[Turn], None]
) -> None:
    before, after = editor.run, outcome.progress.after(batch)
    editor.run = after.to_json()
    try:
        turn = editor.edit(batch)
    except BaseException:
        editor.run = before
        raise
    outcome.progress = after
    outcome.turns += 1
    outcome.edits += len(batch)
    outcome.seconds += turn.seconds
    # A turn that was not checked teaches nothing about its edits.
    outcome.not_learned += [
        edit.id or "" for edit, learned in zip(batch, turn.learned, strict=False) if not learned
    ]
    outcome.not_learned_chat += [
        edit.id or ""
        for edit, learned in zip(batch, turn.learned_chat, strict=False)
        if not learned
    ]
    on_turn(turn)
