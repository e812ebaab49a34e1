"""The names that the embedded model's facts are about."""

from __future__ import annotations

import csv
import random
from functools import cache

from ultraedit.demo import FACTS_FILE


@cache
def _names() -> tuple[str, ...]:
    with FACTS_FILE.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        names = sorted({str(row["subject"]) for row in rows})
    # Of all kinds among the first; the same order on every machine.
    random.Random(0).shuffle(names)
    return tuple(names)


def subjects(count: int) -> tuple[str, ...]:
    """`count` different names of people, places, products and stars, or as many as there are."""
    return _names()[:count]
