"""Edits that wait for their turn: merged where they come together, written one turn at a time."""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from ultraedit.editor import Editor
from ultraedit.encoding.tokenise import Encoded
from ultraedit.errors import InputError, TurnRefusedError, UltraEditError
from ultraedit.evaluation.evaluate import ANSWER_TOKENS
from ultraedit.progress import Advance
from ultraedit.records import Edit, Turn
from ultraedit.service.audit import Audit
from ultraedit.service.drift import agreement, base_texts
from ultraedit.service.errors import ApiError
from ultraedit.service.sets import Sets, unreadable
from ultraedit.storage import is_edited_model, open_journal

log = logging.getLogger(__name__)

MOST_EDITS = 100
# Seconds that the first of a turn waits for others to come.
GATHER = 0.05
KEPT_JOBS = 1000
ENDED = ("done", "refused", "failed")

Status = Literal["queued", "running", "done", "refused", "failed"]


class Spot(NamedTuple):
    """Where a journal has the edits of one request."""

    entry: int
    start: int
    stop: int


@dataclass(frozen=True)
class Guard:
    """What a turn may move at most.

    Attributes:
        probes: Prompts that are asked before and after it.
        least: The share of them that has to be answered as before.
    """

    probes: tuple[str, ...]
    least: float


@dataclass(eq=False)
class Job:
    """A request to write edits, to take some back, or to do something else between two turns.

    Attributes:
        set: Whose edits.
        author: Who asked, by the name of the key.
        edits: What is written; none for other work.
        key: The request's own idempotency key.
        require_learned: Whether the turn is refused if one of them is not learned.
        guard: When the turn is refused besides.
        work: What is done in place of a turn; its result becomes `result`.
    """

    set: str
    author: str
    edits: tuple[Edit, ...] = ()
    key: str | None = None
    require_learned: bool = False
    guard: Guard | None = None
    work: Callable[[], Any] | None = None
    id: str = field(default_factory=lambda: f"job-{secrets.token_hex(12)}")
    status: Status = "queued"
    entry: int | None = None
    results: list[dict[str, Any]] | None = None
    progress: dict[str, Any] | None = None
    error: ApiError | None = None
    result: Any = None
    created: float = field(default_factory=time.time)
    finished: float | None = None
    _ended: threading.Event = field(default_factory=threading.Event)

    @property
    def alone(self) -> bool:
        """Whether it is a turn of its own: whether it stands must not depend on others."""
        return self.require_learned or self.guard is not None or self.work is not None

    def end(self, status: Status, error: ApiError | None = None) -> None:
        self.status, self.error, self.progress = status, error, None
        self.finished = time.time()
        self._ended.set()

    async def wait(self) -> None:
        """Until it has ended."""
        while not self._ended.is_set():
            await asyncio.sleep(0.02)

    def to_dict(self) -> dict[str, Any]:
        """As the interface shows it."""
        return {
            "id": self.id,
            "object": "edit.job",
            "set": self.set,
            "status": self.status,
            "edits": len(self.edits),
            "entry": self.entry,
            "progress": self.progress,
            "results": self.results,
            "error": self.error and self.error.to_dict(),
            "created": int(self.created),
            "finished": None if self.finished is None else int(self.finished),
        }


class Turns:
    """One thread that edits.

    Args:
        sets: What it edits.
        audit: Told of every change.
        threads: The number of CPU threads to compute with.
        on_turn: Called with the seconds and the number of learned edits of every turn.
    """

    def __init__(
        self,
        sets: Sets,
        audit: Audit,
        *,
        threads: int | None = None,
        on_turn: Callable[[float, int, int], None] = lambda seconds, edits, learned: None,
    ) -> None:
        self.sets, self.audit, self.on_turn = sets, audit, on_turn
        self._threads = threads
        self._queue: deque[Job] = deque()
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._by_key: dict[tuple[str, str, str], Job] = {}
        self._drift_texts: list[Encoded] | None = None
        self._keys: dict[str, dict[tuple[str, str], Spot]] = {}
        self._changed = threading.Condition()
        self._open = True
        self.busy = False
        self._thread = threading.Thread(target=self._run, name="edit", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> Job:
        """Put a job into the queue.

        Returns:
            The job; the one that was submitted before with the same key by the same author.

        Raises:
            ApiError: the server is stopping, or the key was used for other edits.
        """
        with self._changed:
            if job.key is not None and (known := self._known(job)) is not None:
                return known
            if not self._open:
                raise ApiError(503, "the server is stopping")
            self._queue.append(job)
            self._jobs[job.id] = job
            if job.key is not None:
                self._by_key[job.set, job.author, job.key] = job
            while len(self._jobs) > KEPT_JOBS:
                oldest = next(iter(self._jobs.values()))
                if oldest.status not in ENDED:
                    break
                del self._jobs[oldest.id]
                if oldest.key is not None:
                    self._by_key.pop((oldest.set, oldest.author, oldest.key), None)
            self._changed.notify()
        return job

    def job(self, name: str) -> Job:
        """A job by its id.

        Raises:
            ApiError: there is none, or not any more.
        """
        with self._changed:
            try:
                return self._jobs[name]
            except KeyError:
                raise ApiError(404, f"no job {name!r}", type="not_found_error") from None

    @property
    def waiting(self) -> int:
        """Jobs in the queue."""
        return len(self._queue)

    def close(self, timeout: float | None = None) -> bool:
        """Take no more, finish what is queued, and end.

        Returns:
            Whether the thread has ended within `timeout` seconds.
        """
        with self._changed:
            self._open = False
            self._changed.notify()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def delete(self, name: str) -> None:
        """Delete a set, and forget what came with a key: the next set of this name is another.

        For the thread that edits.

        Raises:
            ApiError: as `Sets.delete`.
        """
        self.sets.delete(name)
        with self._changed:
            self._keys.pop(name, None)
            self._by_key = {at: job for at, job in self._by_key.items() if at[0] != name}

    def _known(self, job: Job) -> Job | None:
        """The job with the same key: of this process, or one that the journal has."""
        assert job.key is not None
        found = self._by_key.get((job.set, job.author, job.key))
        if found is not None and found.status == "failed":
            # It changed nothing: whoever asks again wants it tried again.
            found = None
        if found is None and (spot := self._spots(job.set).get((job.author, job.key))):
            found = _as_job(self.sets, job, spot)
        if found is not None and _asked(found) != _asked(job):
            raise ApiError(
                409, "this Idempotency-Key was used for other edits", param="Idempotency-Key",
            )  # fmt: skip
        return found

    def _spots(self, name: str) -> dict[tuple[str, str], Spot]:
        """Where the journal of a set has edits that came with a key."""
        if name not in self._keys:
            self._keys[name] = _keyed(self.sets.get(name).out)
        return self._keys[name]

    def _texts(self, editor: Editor) -> list[Encoded]:
        if self._drift_texts is None:
            self._drift_texts = base_texts(editor)
        return self._drift_texts

    def _run(self) -> None:
        if self._threads is not None:
            torch.set_num_threads(self._threads)
        while True:
            with self._changed:
                while self._open and not self._queue:
                    self._changed.wait()
                if not self._queue:
                    return
            time.sleep(GATHER)
            jobs = self._next()
            self.busy = True
            try:
                self._do(jobs)
            finally:
                self.busy = False

    def _next(self) -> list[Job]:
        """The next job, and those right behind it that can share its turn."""
        with self._changed:
            first = self._queue.popleft()
            jobs, prompts = [first], {edit.prompt for edit in first.edits}
            while self._queue and not first.alone:
                job = self._queue[0]
                own = {edit.prompt for edit in job.edits}
                count = sum(len(one.edits) for one in jobs) + len(job.edits)
                # Of two answers to one prompt the later has to win: not in one turn.
                if job.alone or job.set != first.set or own & prompts or count > MOST_EDITS:
                    break
                jobs.append(self._queue.popleft())
                prompts |= own
        return jobs

    def _do(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            job.status = "running"
        try:
            if jobs[0].work is not None:
                jobs[0].result = jobs[0].work()
                jobs[0].end("done")
            else:
                self._write(jobs)
        except ApiError as error:
            self._end(jobs, "refused" if error.status == 409 else "failed", error)
        except (InputError, TurnRefusedError) as error:
            if isinstance(error, InputError) and str(self.sets.folder) in str(error):
                # It names a file of the server, and nothing that was asked.
                self._end(jobs, "failed", unreadable(jobs[0].set, error))
                return
            if len(jobs) > 1:
                # One of them is wrong: the others need not suffer for it.
                for job in jobs:
                    self._do([job])
                return
            status: Status = "failed" if isinstance(error, InputError) else "refused"
            code = 400 if isinstance(error, InputError) else 409
            self._end(jobs, status, ApiError(code, str(error)))
        except UltraEditError as error:
            log.error("a turn failed: %s", error)
            self._end(jobs, "failed", ApiError(500, "the edits could not be saved"))
        except Exception:
            log.exception("a turn failed")
            for job in jobs:
                self.sets.drop_editor(job.set)
            self._end(jobs, "failed", ApiError(500, "the turn failed"))

    def _end(self, jobs: Sequence[Job], status: Status, error: ApiError) -> None:
        for job in jobs:
            job.end(status, error)
            with suppress(UltraEditError, OSError):
                self.audit.write(job.author, job.set, status, {"job": job.id, "reason": str(error)})

    def _write(self, jobs: Sequence[Job]) -> None:
        """One turn of all jobs' edits."""
        name = jobs[0].set
        editor = self.sets.editor(name)
        edits = [edit for job in jobs for edit in job.edits]
        editor.pending.author = ", ".join(dict.fromkeys(job.author for job in jobs))
        asked = [{"author": job.author, "key": job.key, "edits": len(job.edits)} for job in jobs]
        guard = jobs[0].guard
        with _shown(editor, jobs):
            before = _answers(editor, guard)
            note: dict[str, Any] = {"jobs": asked}
            turn = editor.edit(edits, note=note)
            try:
                # The turn holds the same object: what is measured after it is saved with it.
                note["agreement"] = round(agreement(editor, self._texts(editor)), 4)
                _check(jobs[0], turn, before, _answers(editor, guard))
            except BaseException:
                # It was not saved: the folder is as it was.
                self.sets.drop_editor(name)
                _hand_out(jobs, turn)
                raise
            self.sets.save(name)
        entry = self.sets.get(name).counts()["entry"]
        start = 0
        with self._changed:
            for job in jobs:
                job.entry = entry
                if job.key is not None and name in self._keys:
                    spot = Spot(entry, start, start + len(job.edits))
                    self._keys[name][job.author, job.key] = spot
                start += len(job.edits)
        _hand_out(jobs, turn)
        for job in jobs:
            ids = [one["id"] for one in job.results or ()]
            detail = {"entry": entry, "edits": ids, "learned": _learned(job)}
            try:
                self.audit.write(job.author, name, "edit", detail)
            except UltraEditError as error:
                # The edits are saved, and the journal names their author too.
                log.error("not in the audit log: %s", error)
            job.end("done")
        self.on_turn(turn.seconds, len(edits), sum(turn.learned))


def _learned(job: Job) -> int:
    return sum(one["learned"] is True for one in job.results or ())


def _hand_out(jobs: Sequence[Job], turn: Turn) -> None:
    """Give every job what became of its edits."""
    start = 0
    for job in jobs:
        job.results = []
        for place in range(start, start + len(job.edits)):
            learned = turn.learned[place] if turn.learned else None
            in_chat = turn.learned_chat[place] if turn.learned_chat else None
            job.results.append(_result(turn.edits[place], learned, in_chat))
        start += len(job.edits)


def _answers(editor: Editor, guard: Guard | None) -> list[str]:
    if guard is None:
        return []
    prompts = [editor.workbench.encoder.prompt_ids(prompt) for prompt in guard.probes]
    return [one.text for one in editor.workbench.answers(prompts, ANSWER_TOKENS)]


def _check(job: Job, turn: Turn, before: Sequence[str], after: Sequence[str]) -> None:
    """Whether a turn may stand.

    Raises:
        ApiError: it may not, and why.
    """
    if job.require_learned and not all(turn.learned):
        missed = sum(not known for known in turn.learned)
        raise ApiError(
            409, f"{missed} of {len(turn.edits)} edits were not learned; nothing was changed",
            code="not_learned",
        )  # fmt: skip
    if job.guard is not None and before:
        same = sum(was == now for was, now in zip(before, after, strict=True))
        if same < job.guard.least * len(before):
            raise ApiError(
                409,
                f"only {same} of {len(before)} probes are answered as before; nothing was changed",
                code="guard",
            )  # fmt: skip


@contextmanager
def _shown(editor: Editor, jobs: Sequence[Job]) -> Iterator[None]:
    """Let jobs tell how far the work is."""

    @contextmanager
    def progress(what: str, total: int | None) -> Iterator[Advance]:
        began, done = time.monotonic(), 0

        def show() -> None:
            taken = time.monotonic() - began
            left = taken / done * (total - done) if done and total else None
            for job in jobs:
                job.progress = {
                    "what": what, "done": done, "of": total,
                    "seconds_left": None if left is None else round(max(left, 0.0), 1),
                }  # fmt: skip

        def advance(steps: int) -> None:
            nonlocal done
            done += steps
            show()

        show()
        yield advance

    before = editor.workbench.progress
    editor.workbench.progress = progress
    try:
        yield
    finally:
        editor.workbench.progress = before


def _asked(job: Job) -> list[tuple[str, tuple[str, ...]]]:
    return [(edit.prompt, edit.answers) for edit in job.edits]


def _keyed(out: Path) -> dict[tuple[str, str], Spot]:
    found: dict[tuple[str, str], Spot] = {}
    if is_edited_model(out):
        with open_journal(out) as journal:
            for entry in journal.entries():
                start = 0
                for part in (entry.note or {}).get("jobs", ()):
                    stop = start + part["edits"]
                    if part["key"] is not None:
                        found[part["author"], part["key"]] = Spot(entry.number, start, stop)
                    start = stop
    return found


def _as_job(sets: Sets, job: Job, spot: Spot) -> Job:
    """A job as it was written before this process began."""
    with open_journal(sets.get(job.set).out) as journal:
        records = journal.entry(spot.entry).records[spot.start : spot.stop]
    edits = tuple(Edit(one.prompt, one.target, one.subject, one.id or None) for one in records)
    found = Job(job.set, job.author, edits, job.key)
    found.entry = spot.entry
    found.results = [
        _result(edit, record.learned, None) for edit, record in zip(edits, records, strict=True)
    ]
    found.end("done")
    return found


def _result(edit: Edit, learned: bool | None, in_chat: bool | None) -> dict[str, Any]:
    return {
        "id": edit.id,
        "prompt": edit.prompt,
        "target": edit.target if isinstance(edit.target, str) else list(edit.target),
        "learned": learned,
        "learned_chat": in_chat,
    }


def undo(
    sets: Sets,
    audit: Audit,
    name: str,
    author: str,
    *,
    to: int | None = None,
    edit: str | None = None,
    turn: int | None = None,
) -> None:
    """Take edits of a set back; for the thread that edits.

    Raises:
        ApiError, InputError: there is nothing such to take back.
    """
    if not is_edited_model(sets.get(name).out):
        raise ApiError(400, f"{name} has no edits", param="to" if edit is None else "edit")
    editor = sets.editor(name)
    editor.pending.author = author
    try:
        undone = editor.undo(to=to, edit=edit, turn=turn)
    except InputError as error:
        raise ApiError(400, str(error).replace(str(sets.get(name).out), name)) from error
    except BaseException:
        sets.drop_editor(name)
        raise
    sets.undone(name)
    what = {"to": to} if edit is None else {"edit": edit}
    audit.write(author, name, "undo", {"entry": undone.entry, **what})
