import pytest

from ultraedit import Edit
from ultraedit.encoding.subject import likely_subject_end, subject_or_likely_end


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("What is the capital of France?", "What is the capital of France"),
        ("Who runs Adobe?", "Who runs Adobe"),
        ("The Rolling Stones's singer is", "The Rolling Stones"),
        ("In which city did John D. Terry pass away?", "In which city did John D. Terry"),
        ("The author of The Lord of the Rings is", "The author of The Lord of the Rings"),
        ("Mount Erebus, in", "Mount Erebus"),
        ("the capital of france is", "the capital of france"),
        ("...", "..."),
    ],
)
def test_where_a_prompt_names_what_it_is_about(prompt, expected):
    assert prompt[: likely_subject_end(prompt)] == expected


def test_a_given_subject_counts_where_the_prompt_names_it():
    prompt = "Who is Anna's brother in Paris?"
    assert prompt[: subject_or_likely_end(Edit(prompt, "Tom", subject="Anna"))] == "Who is Anna"
    assert subject_or_likely_end(Edit(prompt, "Tom", subject="Berlin")) == len(prompt) - 1
