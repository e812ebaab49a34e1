"""From what the harness returns to scores that can be paired."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence, Set
from typing import Any

from ultraedit.ability.report import Score

NO_FILTER = "none"


def scores(
    results: Mapping[str, Any],
    means: Mapping[str, Set[str]],
    members: Mapping[str, Sequence[str]],
) -> list[Score]:
    """Every metric of every task, and of every group over all its documents.

    Args:
        results: As `lm_eval.evaluate` returns them, with samples.
        means: Task -> its metrics whose value is the mean over documents.
        members: Task as asked for -> the tasks it stands for.
    """
    found: list[Score] = []
    for name, parts in members.items():
        of_parts = [list(_of_task(results, part, means[part])) for part in parts]
        if list(parts) != [name]:
            found += _pooled(name, [score for held in of_parts for score in held], len(parts))
        found += [score for held in of_parts for score in held]
    return found


def _of_task(results: Mapping[str, Any], task: str, means: Set[str]) -> Iterator[Score]:
    samples: Sequence[Mapping[str, Any]] = results["samples"][task]
    better: Mapping[str, bool | None] = results["higher_is_better"].get(task, {})
    for key, value in results["results"][task].items():
        metric, comma, filter_name = key.partition(",")
        if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
            continue
        mine = [sample for sample in samples if sample["filter"] == filter_name]
        documents: dict[Hashable, float] | None = None
        if metric in means and all(_is_number(sample.get(metric)) for sample in mine):
            # The same place in a file that has changed since is another document.
            documents = {
                (task, sample["doc_id"], sample["doc_hash"]): float(sample[metric])
                for sample in mine
            }
        yield Score(
            task=task,
            metric=metric,
            filter="" if filter_name == NO_FILTER else filter_name,
            value=float(value),
            count=len(mine),
            higher_is_better=better.get(metric),
            documents=documents,
        )


def _pooled(name: str, held: Sequence[Score], parts: int) -> Iterator[Score]:
    """A group's scores, in the metrics that all its tasks have as means."""
    for metric, filter_name in dict.fromkeys((score.metric, score.filter) for score in held):
        mine = [s for s in held if (s.metric, s.filter) == (metric, filter_name)]
        documents: dict[Hashable, float] = {}
        for score in mine:
            documents.update(score.documents or {})
        if len(mine) < parts or len(documents) < sum(score.count for score in mine):
            continue
        yield Score(
            task=name,
            metric=metric,
            filter=filter_name,
            value=math.fsum(documents.values()) / len(documents),
            count=len(documents),
            higher_is_better=mine[0].higher_is_better,
            documents=documents,
        )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)
