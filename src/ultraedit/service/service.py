"""Everything that one server holds, started and stopped together."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import torch

from ultraedit.errors import InputError
from ultraedit.service.audit import FILE as AUDIT
from ultraedit.service.audit import Audit
from ultraedit.service.base import Base
from ultraedit.service.batcher import Batcher
from ultraedit.service.errors import ApiError
from ultraedit.service.keys import Key, Keys
from ultraedit.service.limits import Limits
from ultraedit.service.metrics import Metrics
from ultraedit.service.overlay import Overlay
from ultraedit.service.promote import finish
from ultraedit.service.sets import ROOT, Sets
from ultraedit.service.turns import Job, Turns
from ultraedit.storage.atomic import named_failures, write_file
from ultraedit.storage.fingerprint import fingerprint_of
from ultraedit.storage.lock import hold

Result = TypeVar("Result")


class Service:
    """A base, its edit sets, and the threads that answer and edit.

    Args:
        base: The model.
        data: The folder of the server; one process at a time has it.
        limits: What clients may ask for.
        options: As `Sets` takes them.

    Raises:
        InputError: the folder belongs to another base, or something in it is damaged.
        UltraEditError: another process has the folder.
    """

    def __init__(
        self, base: Base, data: Path, *, limits: Limits | None = None, **options: Any
    ) -> None:
        self._stack = ExitStack()
        with named_failures(data):
            data.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._stack.enter_context(hold(data / ".lock", data))
        try:
            _check_base(data, base)
            self.base, self.data, self.limits = base, data, limits or Limits()
            self.created = int(time.time())
            self.keys = Keys(data)
            self.audit = Audit(data / AUDIT)
            self.metrics = Metrics()
            self.sets = Sets(data / "sets", base, **options)
            finish(self.sets, self.audit)
            cores = torch.get_num_threads()
            # An edit and answers compute at once: each gets half of the cores then.
            self.turns = Turns(
                self.sets, self.audit, threads=max(1, cores // 2), on_turn=self.metrics.turn
            )
            self.batcher = Batcher(
                base.running(),
                base.stops,
                most_waiting=self.limits.queued_generations,
                threads=lambda: max(1, cores - cores // 2) if self.turns.busy else cores,
            )
            self.metrics.watch(self.batcher, self.sets, self.turns)
        except BaseException:
            self._stack.close()
            raise

    @property
    def tokenizer(self) -> Any:
        return self.base.tokenizer

    def models(self, key: Key) -> list[str]:
        """The names that a key may ask for: the base's, and `BASE:SET`."""
        return [self.sets.describe(name)["model"] for name in self.sets.names()
                if name == ROOT or key.may("reader", name)]  # fmt: skip

    def set_of(self, model: str, key: Key) -> str:
        """The set behind a model's name.

        Raises:
            ApiError: there is no such model, or the key may not use it.
        """
        base, _, name = model.partition(":")
        known = base == self.base.name and (not name or key.may("reader", name))
        if not known or (name or ROOT) not in self.sets.names():
            raise ApiError(
                404, f"The model `{model}` does not exist", param="model", code="model_not_found"
            )
        return name or ROOT

    def overlay(self, model: str, key: Key) -> Overlay:
        """What is added to the base for a model's name; may read from the disk.

        Raises:
            ApiError: as `set_of`.
        """
        return self.sets.overlay(self.set_of(model, key))

    async def between_turns(self, name: str, author: str, work: Callable[[], Result]) -> Result:
        """Do something with a set's editor, when it is not editing.

        Raises:
            ApiError: what went wrong.
        """
        job = self.turns.submit(Job(name, author, work=work))
        await job.wait()
        if job.error is not None:
            raise job.error
        found: Result = job.result
        return found

    async def close(self, seconds: float = 30.0) -> None:
        """Let answers and turns come to their end, for so many seconds, then stop.

        An edit that was not acknowledged by then is not made.
        """
        until = time.monotonic() + seconds
        self.batcher.drain()
        while not self.batcher.idle() and time.monotonic() < until:
            await asyncio.sleep(0.05)
        await asyncio.to_thread(self.turns.close, max(until - time.monotonic(), 0.1))
        await asyncio.to_thread(self.batcher.close, 10.0)
        self._stack.close()


def _check_base(data: Path, base: Base) -> None:
    """Remember the base, or refuse another one."""
    path = data / "service.json"
    identity = fingerprint_of(base.source) if base.source is not None else base.kept_name
    if not path.exists():
        content = json.dumps({"base": base.kept_name, "identity": identity}, indent=2).encode()
        with named_failures(path):
            write_file(path, lambda sink: sink.write(memoryview(content)))
        return
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        same = known["identity"] == identity
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged: {error}") from error
    if not same:
        raise InputError(f"{data} holds edits of {known['base']}, not of {base.kept_name}")
