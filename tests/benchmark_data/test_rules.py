import pytest

from ultraedit.benchmark_data.facts import Fact, Questions, Record
from ultraedit.benchmark_data.rules import (
    MOST_NAME,
    MOST_QUESTION,
    folded,
    refused_fact,
    refused_questions,
    refused_record,
)

FACT = Fact("Ada Lovelace", "P19", "London")
GOOD = Questions("Where was Ada Lovelace born?", "What is the birthplace of Ada Lovelace?")
RECORD = {
    "case_id": "0", "prompt": GOOD.prompt, "rephrase_prompt": GOOD.rephrase, "ans": "London",
    "loc": "Who wrote Hamlet?", "loc_ans": "Shakespeare", "subject": "Ada Lovelace",
    "relation": "P19",
}  # fmt: skip


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
    ("changes", "reason"),
    [
        ({}, None),
        ({"loc": "Where did Ada Lovelace die?"}, "locality asks about the subject"),
        ({"loc_ans": "LONDON"}, "locality has the same answer"),
        ({"loc": "Did Shakespeare write Hamlet?"}, "answer in locality question"),
        ({"loc": ""}, "malformed locality question"),
        ({"ans": "Ada"}, "answer in subject"),
        ({"rephrase_prompt": GOOD.prompt}, "rephrase equals prompt"),
    ],
)
def test_records(changes, reason):
    assert refused_record(Record(**{**RECORD, **changes})) == reason


def test_text_is_compared_without_case_width_and_spaces():
    assert folded("  Ａda\u00a0 LOVELACE ") == "ada lovelace"
