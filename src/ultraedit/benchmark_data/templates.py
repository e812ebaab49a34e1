"""Questions from templates: at least three for every known relation, and a rule for all others."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from hashlib import blake2b
from importlib.resources import files

from ultraedit.benchmark_data.facts import Fact, Questions

SUBJECT = "{}"
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_]+")
_IDENTIFIER = re.compile(r"P\d+")


@cache
def known_relations() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Wikidata property -> its name and its questions, which hold `{}` for the subject."""
    text = files("ultraedit.benchmark_data").joinpath("relations.txt").read_text("utf-8")
    found = {}
    for line in text.splitlines():
        identifier, name, *questions = line.split("|")
        found[identifier] = (name, tuple(questions))
    return found


@cache
def _by_name() -> dict[str, tuple[str, ...]]:
    return {in_words(name): questions for name, questions in known_relations().values()}


def in_words(relation: str) -> str:
    """`placeOfBirth`, `place_of_birth` and `/people/person/place_of_birth` as `place of birth`."""
    return " ".join(_WORDS.findall(relation.rstrip("/").rpartition("/")[2])).lower()


@cache
def questions_for(relation: str, name: str = "") -> tuple[str, ...]:
    """The templates of a relation; none for an identifier that is unknown and has no name.

    Args:
        relation: A Wikidata property or a name.
        name: The relation in words, if the knowledge base has them.
    """
    if relation in known_relations():
        return known_relations()[relation][1]
    words = in_words(name or ("" if _IDENTIFIER.fullmatch(relation) else relation))
    if not words:
        return ()
    return _by_name().get(words) or (
        f"What is the {words} of {SUBJECT}?",
        f"Which {words} does {SUBJECT} have?",
        f"{SUBJECT} has what {words}?",
    )


class TemplateWriter:
    """Picks two templates of a fact's relation; the same ones for the same seed.

    Args:
        seed: Of the choice.
    """

    name = "templates"

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def write(self, facts: Sequence[Fact]) -> Iterator[Questions | str]:
        """Two questions for every fact, or why there are none."""
        for fact in facts:
            templates = questions_for(fact.relation, fact.relation_name)
            if len(templates) < 2:
                yield "unknown relation"
                continue
            key = f"{self.seed}\n{fact.subject}\n{fact.relation}".encode()
            number = int.from_bytes(blake2b(key, digest_size=8).digest(), "big")
            first = number % len(templates)
            second = (first + 1 + number // len(templates) % (len(templates) - 1)) % len(templates)
            yield Questions(
                templates[first].replace(SUBJECT, fact.subject),
                templates[second].replace(SUBJECT, fact.subject),
            )
