from __future__ import annotations

import pytest

from ultraedit.data.faults import RecordError
from ultraedit.data.layouts import LAYOUTS, PROMPT_LAYOUTS, find_layout


def test_layouts_do_not_shadow_each_other() -> None:
    for layout in PROMPT_LAYOUTS:
        assert find_layout(dict.fromkeys(layout.required), PROMPT_LAYOUTS) is layout


def test_fields_that_no_layout_knows_are_no_obstacle() -> None:
    assert find_layout({"src": "q", "colour": 1}).name == "zsRE"


def test_names_of_fields_count_not_their_values() -> None:
    assert find_layout({"prompt": None, "ans": None}).name == "UltraEditBench"


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        (["prompt"], "native"),
        (["id", "target", "probes"], "native"),
        (["prompt", "rephrase_prompt", "loc"], "CounterFact, WikiBigEdit or KnowEdit"),
        (["prompt", "unrel_prompt"], "FEVER"),
    ],
)
def test_a_missing_field_does_not_hide_the_layout(fields: list[str], name: str) -> None:
    assert find_layout(dict.fromkeys(fields)).name == name


@pytest.mark.parametrize("fields", [[], ["question", "answer"], ["prompt", "answer"]])
def test_an_unknown_layout_names_what_was_seen_and_what_is_known(fields: list[str]) -> None:
    with pytest.raises(RecordError) as caught:
        find_layout(dict.fromkeys(fields))
    said = str(caught.value)
    assert f"fields: {', '.join(fields) or 'none'};" in said
    for layout in LAYOUTS:
        assert f"{layout.name} ({', '.join(layout.required)})" in said


def test_a_wide_table_does_not_make_a_wide_message() -> None:
    with pytest.raises(RecordError) as caught:
        find_layout({f"column {i}" + "x" * 100: None for i in range(1000)})
    assert len(str(caught.value)) < 1000
