"""The facts the demo model learns, and the sentences they are learned from."""

from __future__ import annotations

import csv
import gzip
import random
import tomllib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Fact:
    """One triple of the LRE collection (arXiv:2308.09124)."""

    relation: str
    subject: str
    answer: str


@dataclass(frozen=True)
class Phrasings:
    """Prompt templates of one relation; `held_out` is never trained on."""

    statements: tuple[str, ...]
    questions: tuple[str, ...]
    held_out: str

    @property
    def trained(self) -> tuple[str, ...]:
        return self.statements + self.questions


def read_phrasings(folder: Path = HERE) -> dict[str, Phrasings]:
    with (folder / "phrasings.toml").open("rb") as file:
        table = tomllib.load(file)
    return {
        relation: Phrasings(tuple(row["statements"]), tuple(row["questions"]), row["held_out"])
        for relation, row in table.items()
    }


def read_facts(folder: Path = HERE) -> list[Fact]:
    """Facts whose subject has exactly one answer in its relation, in file order.

    A subject with two answers cannot be known by heart as one greedy answer, so
    such subjects are left out.
    """
    answers: dict[tuple[str, str], set[str]] = defaultdict(set)
    with gzip.open(folder / "facts.tsv.gz", "rt", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            answers[row["relation"], row["subject"].strip()].add(row["object"].strip())
    return [
        Fact(relation, subject, next(iter(objects)))
        for (relation, subject), objects in answers.items()
        if len(objects) == 1
    ]


def sentences(
    facts: Iterable[Fact], phrasings: dict[str, Phrasings], rng: random.Random
) -> list[tuple[str, str]]:
    """One (prompt, answer) pair per fact, each in a trained phrasing drawn by `rng`."""
    return [
        (rng.choice(phrasings[fact.relation].trained).format(fact.subject), fact.answer)
        for fact in facts
    ]
