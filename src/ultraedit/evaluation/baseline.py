"""What the unedited model answers, kept from one evaluation of the same cases to the next."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO, TypeVar

from ultraedit.errors import InputError
from ultraedit.forward.generate import Answer
from ultraedit.storage.atomic import TEMPORARY, named_failures, replace, sync_file

Result = TypeVar("Result")


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

    All evaluations have to be of the same base, cases and options. It is read and written line by
    line, so that it takes no more memory for more cases. A context: what was asked counts if the
    block ends well.

    Args:
        path: A file, which is written if it is not there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stack = ExitStack()
        self._lines: Iterator[str] | None = None
        self._sink: TextIO | None = None

    def __enter__(self) -> Baseline:
        if self.path.is_file():
            file = self._stack.enter_context(open(self.path, encoding="utf-8"))
            self._lines = iter(file)
        else:
            self._sink = self._stack.enter_context(new_text(self.path))
        return self

    def __exit__(self, *raised: Any) -> None:
        self._stack.__exit__(*raised)

    def answers(self, ask: Callable[[], Unedited]) -> Unedited:
        """Of the next cases.

        Raises:
            InputError: the file is damaged.
        """
        if self._lines is None:
            found = ask()
            self._write(found.to_json())
            return found
        return self._read(Unedited.of_json)

    def perplexity(self, ask: Callable[[], float | None]) -> float | None:
        """Of the text, after all cases; raises as `answers` does."""
        if self._lines is None:
            value = ask()
            self._write({"perplexity": value})
            return value
        return self._read(lambda content: content["perplexity"])

    def _write(self, content: dict[str, Any]) -> None:
        assert self._sink is not None
        self._sink.write(json.dumps(content) + "\n")

    def _read(self, convert: Callable[[Any], Result]) -> Result:
        assert self._lines is not None
        try:
            return convert(json.loads(next(self._lines)))
        except (StopIteration, ValueError, KeyError, TypeError, IndexError) as error:
            raise InputError(f"{self.path} is damaged; delete it to ask again") from error


@contextmanager
def new_text(path: Path) -> Iterator[TextIO]:
    """A text file that appears at `path` if the block ends well.

    Raises:
        UltraEditError: it cannot be written.
    """
    staged = path.with_name(f"{TEMPORARY}{path.name}")
    with named_failures(path):
        try:
            with open(staged, "w", encoding="utf-8") as file:
                yield file
            sync_file(staged)
            replace(staged, path)
        finally:
            staged.unlink(missing_ok=True)
