import pytest

from ultraedit.benchmark_data.facts import Fact, Questions
from ultraedit.benchmark_data.templates import (
    SUBJECT,
    TemplateWriter,
    in_words,
    known_relations,
    questions_for,
)


def test_every_known_relation_has_three_questions_about_its_subject():
    assert len(known_relations()) == 235
    every = []
    for identifier, (name, questions) in known_relations().items():
        assert identifier[0] == "P"
        assert identifier[1:].isdigit()
        assert name
        assert len(set(questions)) >= 3, identifier
        for question in questions:
            assert question.count(SUBJECT) == 1, question
            assert question.endswith("?"), question
        every += questions
    assert len(set(every)) == len(every), "a question asks for one relation"


@pytest.mark.parametrize(
    ("relation", "words"),
    [
        ("placeOfBirth", "place of birth"),
        ("place_of_birth", "place of birth"),
        ("/people/person/place_of_birth", "place of birth"),
        ("has IUCN status", "has iucn status"),
        ("Hauptstadt", "hauptstadt"),
        ("首都", "首都"),
    ],
)
def test_relations_in_words(relation, words):
    assert in_words(relation) == words


def test_unknown_relations_follow_a_rule():
    assert questions_for("P9999999") == ()
    assert questions_for("place of birth") == questions_for("P19")
    (first, *others) = questions_for("P9999999", "patron saint")
    assert first == "What is the patron saint of {}?"
    assert len(others) >= 2
    assert questions_for("patronSaint") == (first, *others)
    (refused,) = TemplateWriter().write([Fact("a", "P9999999", "b")])
    assert refused == "unknown relation"


def test_the_choice_follows_the_seed_and_nothing_else():
    facts = [Fact(f"Subject{number}", "P19", "London") for number in range(60)]
    first = list(TemplateWriter(1).write(facts))
    assert list(TemplateWriter(1).write(reversed(facts))) == first[::-1]
    assert list(TemplateWriter(2).write(facts)) != first
    pairs = set()
    for fact, questions in zip(facts, first, strict=True):
        assert isinstance(questions, Questions)
        texts = [
            text.replace(fact.subject, SUBJECT) for text in (questions.prompt, questions.rephrase)
        ]
        pairs.add(tuple(texts))
    assert len(pairs) == 6, "every two of three"


def test_a_subject_may_look_like_a_template():
    (questions,) = TemplateWriter().write([Fact("{} {0}", "P19", "London")])
    assert "{} {0}" in questions.prompt
