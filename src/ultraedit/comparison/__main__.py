"""One run in a process of its own, so that its peak memory is that run's alone.

`python -m ultraedit.comparison FOLDER RUN` is how a comparison starts it; standard output is
one JSON object a line of what is done.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any, TextIO

from ultraedit.errors import INTERRUPTED


class Voice:
    """Tells the comparison's process what is done, for as long as it listens.

    Args:
        stream: Where to.

    Attributes:
        unheard: Whether nobody listens any more.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.unheard = False

    def on_progress(self, what: str, count: int, total: int | None = None) -> None:
        """See `progress.RunProgress`."""
        self._say({"what": what, "count": count, "total": total})

    def fail(self, reason: str) -> None:
        """Why the run ends without a result."""
        self._say({"what": "failed", "reason": reason})

    def _say(self, message: dict[str, Any]) -> None:
        if self.unheard:
            return
        try:
            self.stream.write(json.dumps(message) + "\n")
            self.stream.flush()
        except BrokenPipeError:
            self.unheard = True


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m ultraedit.comparison")
    parser.add_argument("folder", type=Path)
    parser.add_argument("run")
    parser.add_argument("--save-seconds", type=float, default=30.0)
    parser.add_argument("--keep-model", action="store_true")
    options = parser.parse_args(arguments)
    # What a library prints is no message.
    voice = Voice(os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8"))
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    try:
        return _perform(options, voice)
    except KeyboardInterrupt:
        return INTERRUPTED


def _perform(options: argparse.Namespace, voice: Voice) -> int:
    from torch import OutOfMemoryError
    from transformers.utils import logging

    from ultraedit.comparison.folder import Folder, read_object
    from ultraedit.comparison.plan import Plan
    from ultraedit.comparison.run import perform
    from ultraedit.errors import UltraEditError
    from ultraedit.storage.lock import hold

    logging.disable_progress_bar()
    folder = Folder(options.folder)
    plan = Plan.of_json(read_object(folder.summary)["plan"])
    home = folder.run(options.run)
    try:
        with hold(home.lock, home.path):
            result = perform(
                plan,
                plan.run(options.run),
                folder,
                save_seconds=options.save_seconds,
                keep_model=options.keep_model,
                stop=lambda: voice.unheard,
                on_progress=voice.on_progress,
            )
    except UltraEditError as error:
        voice.fail(str(error))
        return 1
    except (MemoryError, OutOfMemoryError):
        voice.fail("memory is full; fewer --batch-tokens need less")
        return 1
    return INTERRUPTED if result is None else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
