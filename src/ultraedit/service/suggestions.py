"""What to ask beside a correction: its question in other words, and others like it."""

from __future__ import annotations

import csv
import random
from collections.abc import Sequence

from ultraedit.demo import FACTS_FILE
from ultraedit.encoding.subject import likely_subject
from ultraedit.encoding.wording import is_question, other_wording

MOST = 4


def rewordings(prompt: str, subject: str | None = None) -> list[str]:
    """The same question in other words, as far as plain rules can tell; the best first."""
    bare = " ".join(prompt.split())
    other = other_wording(bare)
    found = [other] if other else []
    question = bare if is_question(bare) else other
    if question is not None and is_question(question):
        low = question[:1].lower() + question[1:]
        found += [f"Can you tell me: {low}", f"Question: {question} Answer:"]
    if not is_question(bare):
        found += [f"As is well known, {_continued(bare)}", f"It is a fact that {_continued(bare)}"]
    name = subject or likely_subject(bare)
    if name:
        found.append(f"Speaking of {name}: {bare}")
    return list(dict.fromkeys(one for one in found if one != bare))[:MOST]


def neighbours(prompt: str, subject: str | None, known: Sequence[str]) -> list[str]:
    """The same question of others, which a correction must not change.

    Args:
        prompt: The question.
        subject: What it is about; a guess if None.
        known: Prompts that were corrected: their answers are meant to be new ones.
    """
    name = subject or likely_subject(prompt)
    if not name or name not in prompt:
        return []
    others = _like(name)
    found = [prompt.replace(name, other) for other in others if other not in prompt]
    return [one for one in found if one not in known][:MOST]


def _continued(text: str) -> str:
    """A sentence's beginning behind other words: articles lose their capital, names keep it."""
    first, _, rest = text.partition(" ")
    small = first.lower() in ("the", "a", "an", "in", "on", "at", "its", "his", "her")
    return f"{first.lower() if small else first} {rest}".rstrip()


def _like(name: str) -> list[str]:
    """Names of which the embedded facts say the same kind of thing; any where they have none."""
    by_relation: dict[str, list[str]] = {}
    with FACTS_FILE.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            by_relation.setdefault(str(row["relation"]), []).append(str(row["subject"]))
    same = [names for names in by_relation.values() if name in names]
    pool = sorted({one for names in same or by_relation.values() for one in names} - {name})
    # The same suggestions whenever somebody asks.
    return random.Random(name).sample(pool, min(2 * MOST, len(pool)))
