"""What was measured of general ability, as tables and JSON take it."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

from ultraedit.ability.pairing import CONFIDENCE, Difference


@dataclass(frozen=True)
class Score:
    """One model's score in one metric of one task.

    Attributes:
        task: The task's name, or a group's.
        metric: As the harness calls it.
        filter: What the answers went through first; empty where nothing is to choose.
        value: The harness's value; for a group, over all of its documents alike.
        count: Documents.
        higher_is_better: None where the harness does not say.
        documents: Document -> score, where `value` is their mean; else None, as for a
            perplexity.
    """

    task: str
    metric: str
    filter: str
    value: float
    count: int
    higher_is_better: bool | None
    documents: Mapping[Hashable, float] | None

    @property
    def key(self) -> tuple[str, str, str]:
        return self.task, self.metric, self.filter


@dataclass(frozen=True)
class Row:
    """A score after editing, beside the one before.

    Attributes:
        after: Of the edited model.
        before: Of the unedited one; None where it is not known.
        difference: Paired over documents; None without `before`, or where the score is no
            mean over documents.
    """

    after: Score
    before: float | None
    difference: Difference | None

    def to_dict(self) -> dict[str, Any]:
        score = self.after
        row: dict[str, Any] = {
            "task": score.task,
            "metric": score.metric,
            "filter": score.filter or None,
            "documents": score.count,
            "higher_is_better": score.higher_is_better,
            "before": _finite(self.before),
            "after": _finite(score.value),
        }
        if self.difference is not None:
            found = self.difference
            row["difference"] = _finite(found.mean)
            row["interval"] = [_finite(found.low), _finite(found.high)]
            row["rose"], row["fell"] = found.rose, found.fell
        return row


@dataclass(frozen=True)
class AbilityReport:
    """Scores of all tasks.

    Attributes:
        rows: In the order of the tasks.
        sources: Task as asked for -> where it came from.
        shots: Task -> solved examples in front of every document.
        confidence: Of the intervals.
        seconds: Taken by the harness, loading of tasks not counted.
        versions: Package -> version of what measured it.
    """

    rows: tuple[Row, ...]
    sources: Mapping[str, str]
    shots: Mapping[str, int]
    confidence: float = CONFIDENCE
    seconds: float = 0.0
    versions: Mapping[str, str] | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON; values that are not finite are null."""
        return {
            "scores": [row.to_dict() for row in self.rows],
            "sources": dict(self.sources),
            "shots": dict(self.shots),
            "interval": {"kind": "normal, paired by document", "confidence": self.confidence},
            "seconds": self.seconds,
            "versions": dict(self.versions or {}),
        }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
