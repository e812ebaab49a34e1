"""Scores of cases before and after editing, and their means."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ultraedit.records import PROBE_KINDS

# kind of question -> metric -> value
Scores = dict[str, dict[str, float]]

KINDS = ("efficacy", *PROBE_KINDS)
HEADLINE = ("efficacy", "rephrase", "locality")


@dataclass(frozen=True)
class CaseResult:
    """One case's scores, each the mean over its questions of a kind.

    Attributes:
        id: The edit's id, or its position as text.
        prompt, target: The edit.
        before, after: Per kind and metric, in [0, 1].
        answers: Per state (`before`, `after`), per kind, the free answers, where generated.
    """

    id: str
    prompt: str
    target: str
    before: Scores
    after: Scores
    answers: dict[str, dict[str, list[str]]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        record: dict[str, Any] = {
            "id": self.id, "prompt": self.prompt, "target": self.target,
            "before": self.before, "after": self.after,
        }  # fmt: skip
        return record | ({"answers": self.answers} if self.answers else {})


@dataclass
class Tally:
    """Running per-case means, so that any number of cases is summed in constant memory."""

    sums: dict[tuple[str, str], float] = field(default_factory=dict)
    counts: dict[tuple[str, str], int] = field(default_factory=dict)

    def add(self, scores: Scores) -> None:
        for kind, metrics in scores.items():
            for metric, value in metrics.items():
                key = kind, metric
                self.sums[key] = self.sums.get(key, 0.0) + value
                self.counts[key] = self.counts.get(key, 0) + 1

    def means(self) -> Scores:
        result: Scores = {}
        for kind in KINDS:
            for (k, metric), total in self.sums.items():
                if k == kind:
                    result.setdefault(kind, {})[metric] = total / self.counts[k, metric]
        return result

    def cases(self) -> dict[str, int]:
        """Per kind, how many cases have a question of it."""
        return {kind: n for (kind, metric), n in self.counts.items() if metric == "token_accuracy"}


@dataclass(frozen=True)
class Report:
    """An evaluation: means over cases (each case counts once) before and after editing.

    Attributes:
        count: Cases evaluated.
        counts: Per kind, cases that have a question of it.
        before, after: Per kind and metric. `token_accuracy` and `exact_match` are
            teacher-forced, `generation` is the normalised exact match of the free answer;
            under `locality` these are against the reference answer, `agreement` and
            `agreement_exact` against the unedited model's own answer, and `ends_earlier` is the
            share of free answers that end before that one does. `routed` is the share of
            questions that a side memory answered, for methods that have one.
        perplexity: `before` and `after`, where a text file was given.
        cases: One result per case, if kept.
    """

    count: int
    counts: dict[str, int]
    before: Scores
    after: Scores
    perplexity: dict[str, float | None] = field(default_factory=dict)
    seconds: float = 0.0
    cases: tuple[CaseResult, ...] = ()

    def mean(self, metric: str = "token_accuracy") -> float | None:
        """Mean of efficacy, rephrase and locality after editing, over those that were asked.

        Locality counts by agreement with the unedited model where `metric` is
        token_accuracy or exact_match and that was measured.
        """
        agreement = {"token_accuracy": "agreement", "exact_match": "agreement_exact"}
        values = []
        for kind in HEADLINE:
            scores = self.after.get(kind, {})
            if kind == "locality" and agreement.get(metric) in scores:
                values.append(scores[agreement[metric]])
            elif metric in scores:
                values.append(scores[metric])
        return sum(values) / len(values) if values else None

    def intervals(self) -> dict[str, dict[str, tuple[float, float]]]:
        """95% intervals of the scores after editing, where the cases are a sample of more.

        Wilson's interval of a share. A case that counts between 0 and 1 varies less than one that
        counts 0 or 1, so the interval is wide enough for those too.
        """
        return {
            kind: {metric: wilson(value, self.counts[kind]) for metric, value in metrics.items()}
            for kind, metrics in self.after.items()
            if self.counts.get(kind)
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: what `--json` prints."""
        return {
            "count": self.count,
            "counts": self.counts,
            "before": self.before,
            "after": self.after,
            "intervals": self.intervals(),
            "mean": self.mean(),
            "perplexity": self.perplexity or None,
            "seconds": round(self.seconds, 3),
        }


def wilson(share: float, count: int) -> tuple[float, float]:
    """The 95% interval of a share that was found in `count` draws (Wilson, 1927)."""
    z = 1.959964
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count)
    half *= math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, middle - half), min(1.0, middle + half)


def mean_scores(items: Iterable[tuple[str, Mapping[str, float]]]) -> Scores:
    """Mean of every metric over one case's questions, by kind."""
    tally = Tally()
    for kind, metrics in items:
        tally.add({kind: dict(metrics)})
    return tally.means()
