"""A run in a process of its own, as seen from the comparison that started it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ultraedit.comparison.folder import Folder
from ultraedit.comparison.plan import Run
from ultraedit.comparison.progress import RunProgress
from ultraedit.data.faults import one_line
from ultraedit.errors import INTERRUPTED
from ultraedit.storage.atomic import named_failures
from ultraedit.storage.cache import VARIABLE


@dataclass(frozen=True)
class Ended:
    """How a run's process ended.

    Attributes:
        how: `done`, `failed`, or `stopped` before it was done.
        reason: Why it failed, in one line.
        interrupted: Whether somebody wants the whole comparison to end.
    """

    how: Literal["done", "failed", "stopped"]
    reason: str = ""
    interrupted: bool = False


def carry_out(
    folder: Folder,
    run: Run,
    *,
    save_seconds: float,
    keep_model: bool,
    on_progress: RunProgress,
) -> Ended:
    """Start a run and wait for its end.

    An interrupt is handed on once: the run ends after its turn, and saves. So does it where
    this process dies.

    Args:
        folder: Of the comparison.
        run: Which.
        save_seconds, keep_model: As in `run.perform`.
        on_progress: As in `run.perform`.

    Raises:
        UltraEditError: the run's folder cannot be written to.
    """
    home = folder.run(run.name)
    command = [
        sys.executable, "-m", "ultraedit.comparison", str(folder.out), run.name,
        "--save-seconds", str(save_seconds), *(["--keep-model"] if keep_model else []),
    ]  # fmt: skip
    with named_failures(home.path):
        home.path.mkdir(parents=True, exist_ok=True)
        errors = open(home.errors, "wb")  # noqa: SIM115 - closed with the process
    with errors:
        # What earlier runs have measured would make this one seem quicker than it is.
        environment = {**os.environ, VARIABLE: str(home.cache.resolve())}
        # In a group of its own: a terminal's interrupt comes here alone, and is handed on.
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, stdin=subprocess.DEVNULL, text=True,
            process_group=0, env=environment,
        )  # fmt: skip
        reason, interrupted = _wait(process, on_progress)
    if home.result.is_file():
        home.errors.unlink(missing_ok=True)
        home.lock.unlink(missing_ok=True)
        return Ended("done", interrupted=interrupted)
    if interrupted or (process.returncode == INTERRUPTED and not reason):
        return Ended("stopped", interrupted=True)
    return Ended("failed", reason or _last_words(process.returncode, home.errors))


def _wait(process: subprocess.Popen[str], on_progress: RunProgress) -> tuple[str, bool]:
    """The reason it gave for failing, and whether an interrupt was handed on to it."""
    reason, interrupted = "", False
    assert process.stdout is not None
    try:
        while process.returncode is None:
            try:
                for line in process.stdout:
                    message = json.loads(line)
                    if message["what"] == "failed":
                        reason = one_line(message["reason"])
                    else:
                        on_progress(message["what"], message["count"], message["total"])
                process.wait()
            except KeyboardInterrupt:
                interrupted = True
                process.send_signal(signal.SIGINT)
    except BaseException:
        process.kill()
        raise
    finally:
        process.stdout.close()
        process.wait()
    return reason, interrupted


def _last_words(code: int, errors: Path) -> str:
    """Why a process ended that did not say so itself."""
    if code == -signal.SIGKILL:
        return "its process was killed, as systems do where memory runs out"
    if code < 0:
        return f"its process was ended by {signal.Signals(-code).name}"
    lines = errors.read_text(encoding="utf-8", errors="replace").splitlines()
    said = next((line for line in reversed(lines) if line.strip()), f"exit code {code}")
    return one_line(f"its process ended early ({errors.name} says more): {said}", 300)
