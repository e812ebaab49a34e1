import pytest

from ultraedit.evaluation.matching import mentions


@pytest.mark.parametrize(
    ("text", "accepted", "expected"),
    [
        ("The capital of Australia is Sydney.", ["Sydney"], True),
        ("sydney", ["Perth", "Sydney"], True),
        ("It is Canberra. Sydney is larger.", ["Sydney"], False),
        ("Mira Talib leads it.", ["Mira Tal"], False),
        ("It is St. Gallen.", ["St. Gallen"], True),
        ("Jane Austen's Emma", ["Jane Austen"], True),
        ("McDonald’s sells it", ["McDonald’s"], True),
        ("McDonald sells it", ["McDonald's"], False),
        ("It's here", ["It is"], False),
    ],
)
def test_an_answer_that_holds_the_target(text, accepted, expected):
    assert mentions(text, accepted) is expected
