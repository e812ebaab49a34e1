"""What a language model is asked to write, and how its answer is read."""

from __future__ import annotations

import json
import re

from ultraedit.benchmark_data.facts import Fact, Questions
from ultraedit.benchmark_data.rules import refused_questions
from ultraedit.benchmark_data.templates import in_words, known_relations

SYSTEM = (
    "You write questions for a quiz. You get a fact as subject, relation and answer. Write two"
    " natural English questions, in different words, each of which has exactly this answer. Each"
    " question names the subject exactly as given and does not contain the answer. Reply with one"
    ' JSON object: {"question": "...", "rephrase": "..."}'
)
_OBJECT = re.compile(r"\{.*\}", re.DOTALL)


def relation_in_words(fact: Fact) -> str:
    """The relation's name, however the knowledge base has it; empty if it has none."""
    known = known_relations().get(fact.relation)
    return known[0] if known else fact.relation_name or in_words(fact.relation)


def request(fact: Fact) -> str:
    """The message that asks for the questions of a fact."""
    return f"subject: {fact.subject}\nrelation: {relation_in_words(fact)}\nanswer: {fact.object}"


def questions_in(reply: str, fact: Fact) -> Questions | str:
    """The questions of a reply, or what is wrong with it."""
    found = _OBJECT.search(reply)
    try:
        content = json.loads(found.group() if found else "")
        questions = Questions(content["question"].strip(), content["rephrase"].strip())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "malformed reply"
    return refused_questions(fact, questions, fact.object) or questions
