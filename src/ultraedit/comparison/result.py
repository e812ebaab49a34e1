"""What a run came to: what it cost, what the model answers, and where that was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from ultraedit.comparison.plan import Run
from ultraedit.comparison.turns import TurnRecord
from ultraedit.evaluation.report import Report


@dataclass(frozen=True)
class Cost:
    """What writing all edits took.

    Attributes:
        edits: How many.
        turns: In how many turns.
        learned: Edits that the model answered when their own turn was done.
        passes: How often shifts were applied, in all turns.
        seconds: Of all turns; see `TurnRecord`.
        first_turn_seconds: Of the first, in which some methods prepare.
        later_seconds_per_edit: The median of the other turns; None where there are none.
        peak_bytes: The most memory held during a turn, the loaded model included.
        loaded_bytes: Memory held once the unedited model was loaded, before any edit.
        kept_bytes: What later turns and queries need beside the model.
    """

    edits: int
    turns: int
    learned: int
    passes: int
    seconds: float
    first_turn_seconds: float
    later_seconds_per_edit: float | None
    peak_bytes: int | None
    loaded_bytes: int | None
    kept_bytes: int

    @property
    def seconds_per_edit(self) -> float:
        """Over all turns."""
        return self.seconds / self.edits

    @property
    def memory_bytes(self) -> int | None:
        """The peak beyond the loaded model."""
        if self.peak_bytes is None or self.loaded_bytes is None:
            return None
        return max(self.peak_bytes - self.loaded_bytes, 0)

    @property
    def kept_bytes_per_edit(self) -> float:
        """Of what is kept beside the model."""
        return self.kept_bytes / self.edits

    @staticmethod
    def of(turns: Sequence[TurnRecord]) -> Cost:
        """The cost of these turns, at least one."""
        later = [turn.seconds / turn.edits for turn in turns[1:]]
        peaks = [turn.peak_bytes for turn in turns if turn.peak_bytes is not None]
        return Cost(
            edits=sum(turn.edits for turn in turns),
            turns=len(turns),
            learned=sum(turn.learned for turn in turns),
            passes=sum(turn.passes for turn in turns),
            seconds=sum(turn.seconds for turn in turns),
            first_turn_seconds=turns[0].seconds,
            later_seconds_per_edit=median(later) if later else None,
            peak_bytes=max(peaks, default=None),
            # A resumed run is loaded with what it had made before; the first one was not.
            loaded_bytes=turns[0].loaded_bytes,
            kept_bytes=turns[-1].kept_bytes,
        )


@dataclass(frozen=True)
class Result:
    """A run that was carried through.

    Attributes:
        run: Which.
        editor: How it was edited: modules, step, padded tokens of a batch.
        machine: On what: device, dtype, threads, versions.
        cost: What editing took.
        report: Scores after all edits, and of the unedited model.
    """

    run: Run
    editor: Mapping[str, Any]
    machine: Mapping[str, Any]
    cost: Cost
    report: Report

    def to_json(self) -> dict[str, Any]:
        """Plain values; what is not a finite number is null."""
        cost = asdict(self.cost) | {
            "seconds_per_edit": self.cost.seconds_per_edit,
            "memory_bytes": self.cost.memory_bytes,
            "kept_bytes_per_edit": self.cost.kept_bytes_per_edit,
        }
        content = {
            **asdict(self.run),
            "editor": dict(self.editor),
            "machine": dict(self.machine),
            "cost": cost,
            "report": self.report.to_dict(),
        }
        return {name: finite(value) for name, value in content.items()}

    @staticmethod
    def of_json(content: Mapping[str, Any]) -> Result:
        """The result that `to_json` gave.

        Raises:
            KeyError, TypeError: it is none.
        """
        run = {name: content[name] for name in Run.__dataclass_fields__}
        cost = {name: content["cost"][name] for name in Cost.__dataclass_fields__}
        report = content["report"]
        return Result(
            Run.of_json(run),
            content["editor"],
            content["machine"],
            Cost(**cost),
            Report(
                count=report["count"],
                counts=report["counts"],
                before=report["before"],
                after=report["after"],
                perplexity=report["perplexity"] or {},
                seconds=report["seconds"],
            ),
        )


def finite(value: Any) -> Any:
    """The same with null for every number that JSON has no word for."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value
