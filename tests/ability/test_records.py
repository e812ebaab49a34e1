import json

import pytest

from ultraedit import InputError
from ultraedit.ability.records import LAYOUTS, read

GOOD = {
    "choices": {"query": "Question: Who?", "choices": ["he", "she"], "gold": 1},
    "schema": {"context_options": ["He", "She"], "continuation": "sings.", "gold": 0},
    "continuation": {"context": "He does not care about", "continuation": "signs"},
    "aliases": {"context": "Question: Who?\nAnswer:", "answer": "she", "aliases": ["her", "she"]},
    "reasoning": {"context": "1 + 1?", "chain_of_thought": "It is 2.", "answer": "2"},
}


def file_of(tmp_path, *records):
    path = tmp_path / "task.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_every_layout_has_an_example():
    assert GOOD.keys() == LAYOUTS.keys()


@pytest.mark.parametrize("layout", GOOD)
def test_records_are_read_as_they_stand(tmp_path, layout):
    path = file_of(tmp_path, GOOD[layout], GOOD[layout] | {"category": "not needed"})
    assert read(path, layout) == [GOOD[layout]] * 2


# An answer alone will do.
NEEDED = [(layout, field) for layout in GOOD for field in GOOD[layout] if field != "aliases"]


@pytest.mark.parametrize(("layout", "field"), NEEDED)
def test_what_is_missing_is_named(tmp_path, layout, field):
    broken = {name: value for name, value in GOOD[layout].items() if name != field}
    with pytest.raises(InputError, match=rf"task\.jsonl: record 2, field '{field}': is missing"):
        read(file_of(tmp_path, GOOD[layout], broken), layout)


@pytest.mark.parametrize(
    ("layout", "change", "match"),
    [
        ("choices", {"gold": 2}, "'gold': is 2, but choices has 2 entries from 0"),
        ("choices", {"gold": -1}, "'gold': is -1"),
        ("choices", {"gold": True}, "'gold': is true or false"),
        ("choices", {"gold": "1"}, "'gold': is text"),
        ("choices", {"choices": ["one"]}, "'choices': holds 1 texts"),
        ("choices", {"choices": ["x"] * 11}, "'choices': holds 11 texts"),
        ("choices", {"choices": "ab"}, "'choices': is not a list of texts"),
        ("choices", {"choices": ["", "b"]}, "'choices': is not a list of texts"),
        ("choices", {"query": " "}, "'query': is empty"),
        ("schema", {"context_options": [1, 2]}, "'context_options': is not a list of texts"),
        ("aliases", {"aliases": "she"}, "'aliases': is not a list of texts"),
        ("reasoning", {"answer": False}, "'answer': is true or false"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, layout, change, match):
    with pytest.raises(InputError, match=rf"record 1, field {match}"):
        read(file_of(tmp_path, GOOD[layout] | change), layout)


def test_answers_count_as_aliases_and_numbers_as_text(tmp_path):
    record = {"context": "Who?", "answer": "she", "aliases": ["her"]}
    assert read(file_of(tmp_path, record), "aliases")[0]["aliases"] == ["she", "her"]
    del record["aliases"]
    assert read(file_of(tmp_path, record), "aliases")[0]["aliases"] == ["she"]
    number = GOOD["reasoning"] | {"answer": 2}
    assert read(file_of(tmp_path, number), "reasoning")[0]["answer"] == "2"


@pytest.mark.parametrize(
    ("content", "match"),
    [("", "holds no records"), ("\n\n", "holds no records"), ("{]\n", "record 1"), ("1\n", "is")],
)
def test_empty_and_broken_files(tmp_path, content, match):
    path = tmp_path / "task.jsonl"
    path.write_text(content)
    with pytest.raises(InputError, match=match) as caught:
        read(path, "choices")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
