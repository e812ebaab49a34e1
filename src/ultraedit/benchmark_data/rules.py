"""What a record has to keep. Each rule has a name, under which refused facts are counted."""

from __future__ import annotations

import unicodedata
from functools import lru_cache

from ultraedit.benchmark_data.facts import Fact, Questions

MOST_NAME, MOST_QUESTION = 100, 300  # characters


@lru_cache(maxsize=1 << 14)
def folded(text: str) -> str:
    """Text as it is compared: without case, width, or differences of spaces."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return " ".join(text.split()).casefold()


def refused_fact(fact: Fact) -> str | None:
    """Why a fact can be in no record; None if it can."""
    for text in (fact.subject, fact.object, fact.relation):
        if not text.strip():
            return "empty"
        # A line break would end a free answer, and other control characters belong to no name.
        if not text.isprintable():
            return "control characters"
    if fact.object.startswith(("{", "[")) and fact.object.endswith(("}", "]")):
        return "structured value"
    if max(len(fact.subject), len(fact.object)) > MOST_NAME:
        return "name too long"
    if folded(fact.object) in folded(fact.subject):
        return "answer in subject"
    return None


def refused_questions(fact: Fact, questions: Questions, answer: str) -> str | None:
    """Why questions do not ask for a fact as they should; None if they do."""
    if folded(questions.prompt) == folded(questions.rephrase):
        return "rephrase equals prompt"
    for text in (questions.prompt, questions.rephrase):
        if not text.strip() or not text.isprintable():
            return "malformed question"
        if len(text) > MOST_QUESTION:
            return "question too long"
        if folded(answer) in folded(text):
            return "answer in question"
    if fact.subject not in questions.prompt or folded(fact.subject) not in folded(
        questions.rephrase
    ):
        return "subject not in question"
    return None


def refused_locality(fact: Fact, answer: str, question: str, local_answer: str) -> str | None:
    """Why a question will not do as the locality question of a fact; None if it will.

    Args:
        fact: That is edited.
        answer: The one to write, which may be another than the fact's.
        question: About another subject.
        local_answer: Its answer.
    """
    if folded(local_answer) in (folded(answer), folded(fact.object)):
        return "locality has the same answer"
    if folded(fact.subject) in folded(question):
        return "locality asks about the subject"
    return None
