"""What the unedited model answers, kept from one evaluation of the same cases to the next."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ultraedit.forward.generate import Answer
from ultraedit.storage.atomic import named_failures, write_file


@dataclass(frozen=True)
class Measured:
    """A question's scores in one state of the model, and its free answer if asked for."""

    scores: dict[str, float]
    answer: Answer | None


@dataclass(frozen=True)
class Unedited:
    """What the unedited model makes of the questions of some cases.

    Attributes:
        own: Place of each locality question -> the tokens of the model's own answer.
        measured: Of every question; empty where scores were not asked for.
    """

    own: Mapping[int, tuple[int, ...]]
    measured: Sequence[Measured]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "own": [[place, list(ids)] for place, ids in self.own.items()],
            "measured": [
                [one.scores, one.answer and [list(one.answer.ids), one.answer.text]]
                for one in self.measured
            ],
        }

    @staticmethod
    def of_json(content: Mapping[str, Any]) -> Unedited:
        """What `to_json` gave."""
        return Unedited(
            {place: tuple(ids) for place, ids in content["own"]},
            [
                Measured(scores, answer and Answer(tuple(answer[0]), answer[1]))
                for scores, answer in content["measured"]
            ],
        )


class Baseline:
    """The unedited model's part of an evaluation: asked in the first one, read in later ones.

    All evaluations have to be of the same base, cases and options.

    Args:
        path: A file, written by `write`; None keeps nothing.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._known = _read(path)
        self._is_new = not self._known
        self._used = 0

    def answers(self, ask: Callable[[], Unedited]) -> Unedited:
        """Of the next cases."""
        return Unedited.of_json(self._next(lambda: ask().to_json()))

    def perplexity(self, ask: Callable[[], float | None]) -> float | None:
        """Of the text, after all cases."""
        value = self._next(lambda: {"perplexity": ask()})["perplexity"]
        return None if value is None else float(value)

    def write(self) -> None:
        """Keep what was asked, after an evaluation that came to its end.

        Raises:
            UltraEditError: the file cannot be written.
        """
        if self.path is None or not self._is_new:
            return
        text = "".join(json.dumps(one) + "\n" for one in self._known)
        with named_failures(self.path):
            write_file(self.path, lambda sink: sink.write(memoryview(text.encode())))

    def _next(self, ask: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        if self.path is None:
            return ask()
        if self._used == len(self._known):
            self._known.append(ask())
        self._used += 1
        return self._known[self._used - 1]


def _read(path: Path | None) -> list[dict[str, Any]]:
    """The lines of the file; none where it is not there or damaged: it can be made again."""
    try:
        text = "" if path is None else path.read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines()]
    except (OSError, ValueError):
        return []
