import pytest

from ultraedit.encoding.wording import other_wording

PAIRS = [
    ("What is the capital of France?", "The capital of France is"),
    (
        "What was the mother tongue of Danielle Darrieux?",
        "The mother tongue of Danielle Darrieux was",
    ),
    ("What is France's capital?", "France's capital is"),
]


@pytest.mark.parametrize(("question", "statement"), PAIRS)
def test_a_question_and_its_statement_turn_into_each_other(question, statement):
    assert other_wording(question) == statement
    assert other_wording(statement) == question


def test_who_and_which_ask_too():
    assert other_wording("Who is the CEO of Adobe?") == "The CEO of Adobe is"
    assert other_wording("who  was the first president? ") is not None


@pytest.mark.parametrize(
    "prompt",
    [
        "Who runs Adobe?", "How many moons does Saturn have?", "What is it?", "", "is", "The",
        "Danielle Darrieux, a native", "Is the capital of France Paris?",
        "What is the capital? And of what?",
    ],
)  # fmt: skip
def test_what_is_not_plain_is_left_alone(prompt):
    assert other_wording(prompt) is None
