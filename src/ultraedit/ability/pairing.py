"""The difference between two models over the same documents, and how sure it is."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from statistics import NormalDist

from ultraedit.errors import InputError

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Difference:
    """The mean of `after - before` over documents.

    Attributes:
        mean: In the unit of the scores.
        low: Lower end of the interval; None where one document leaves it unknown.
        high: Its upper end.
        rose: Documents whose score is higher after.
        fell: Documents whose score is lower after.
    """

    mean: float
    low: float | None
    high: float | None
    rose: int
    fell: int


def paired_difference(
    before: Mapping[Hashable, float],
    after: Mapping[Hashable, float],
    confidence: float = CONFIDENCE,
) -> Difference:
    """Mean difference with its normal interval: mean +- z * s / sqrt(n).

    `s` is the standard deviation (n - 1) of the differences within documents, so what makes a
    document hard for both models cancels. The interval has no width where no document's score
    has changed; `rose` and `fell` tell how many have.

    Args:
        before: Document -> score.
        after: The same documents.
        confidence: Share of such intervals that cover the true mean.

    Raises:
        InputError: there are no documents, or the two sets of documents differ.
    """
    if not before and not after:
        raise InputError("there are no documents to compare")
    if before.keys() != after.keys():
        other = len(before.keys() ^ after.keys())
        raise InputError(f"{other} documents were asked of one of the two models only")
    differences = [after[document] - score for document, score in before.items()]
    count = len(differences)
    mean = math.fsum(differences) / count
    rose = sum(difference > 0 for difference in differences)
    fell = sum(difference < 0 for difference in differences)
    if count == 1:
        return Difference(mean, None, None, rose, fell)
    variance = math.fsum((difference - mean) ** 2 for difference in differences) / (count - 1)
    half = NormalDist().inv_cdf((1 + confidence) / 2) * math.sqrt(variance / count)
    return Difference(mean, mean - half, mean + half, rose, fell)
