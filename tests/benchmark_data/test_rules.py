import pytest

from ultraedit.benchmark_data.facts import Fact, Questions
from ultraedit.benchmark_data.rules import (
    MOST_NAME,
    MOST_QUESTION,
    folded,
    refused_fact,
    refused_locality,
    refused_questions,
)

FACT = Fact("Ada Lovelace", "P19", "London")
GOOD = Questions("Where was Ada Lovelace born?", "What is the birthplace of Ada Lovelace?")


@pytest.mark.parametrize(
    ("fact", "reason"),
    [
        (FACT, None),
        (Fact("", "P19", "London"), "empty"),
        (Fact("Ada", "P19", "  "), "empty"),
        (Fact("Ada\nLovelace", "P19", "London"), "control characters"),
        (Fact("Ada", "P19", "Lon\x00don"), "control characters"),
        (Fact("A" * (MOST_NAME + 1), "P19", "London"), "name too long"),
        (Fact("Ada", "P19", "b" * (MOST_NAME + 1)), "name too long"),
        (Fact("University of London", "P131", "LONDON"), "answer in subject"),
        (Fact("Ada", "P19", "{'rdf': 'x'}"), "structured value"),
    ],
)
def test_facts(fact, reason):
    assert refused_fact(fact) == reason


@pytest.mark.parametrize(
    ("questions", "answer", "reason"),
    [
        (GOOD, "London", None),
        (Questions(GOOD.prompt, "where  was ada LOVELACE born?"), "x", "rephrase equals prompt"),
        (GOOD, "lovelace", "answer in question"),
        (Questions("Who is London's Ada Lovelace?", GOOD.rephrase), "London", "answer in question"),
        (Questions("Where was she born?", GOOD.rephrase), "London", "subject not in question"),
        (Questions(GOOD.prompt, "Where was she born?"), "London", "subject not in question"),
        (Questions(GOOD.prompt, " "), "London", "malformed question"),
        (Questions(GOOD.prompt, "What\nis Ada Lovelace?"), "London", "malformed question"),
        (
            Questions(GOOD.prompt, "Ada Lovelace " + "x" * MOST_QUESTION),
            "London",
            "question too long",
        ),
    ],
)
def test_questions(questions, answer, reason):
    assert refused_questions(FACT, questions, answer) == reason


@pytest.mark.parametrize(
    ("answer", "question", "local_answer", "reason"),
    [
        ("London", "Who wrote Hamlet?", "Shakespeare", None),
        ("London", "Where did Ada Lovelace die?", "x", "locality asks about the subject"),
        ("London", "Where was Hooke born?", "LONDON", "locality has the same answer"),
        ("Paris", "Where was Hooke born?", "London", "locality has the same answer"),
        ("Paris", "Where was Zola born?", "Paris", "locality has the same answer"),
    ],
)
def test_locality(answer, question, local_answer, reason):
    assert refused_locality(FACT, answer, question, local_answer) == reason


def test_text_is_compared_without_case_width_and_spaces():
    assert folded("  Ａda\u00a0 LOVELACE ") == "ada lovelace"
