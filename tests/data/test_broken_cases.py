from __future__ import annotations

from typing import Any

import pytest

from ultraedit.data.cases import to_case, to_prompts
from ultraedit.data.faults import RecordError


@pytest.mark.parametrize(
    ("record", "field", "said"),
    [
        ({"prompt": "p"}, "target", "is missing"),
        ({"id": 1, "prompt": "p", "subject": "s"}, "target", "is missing"),
        ({"id": 1, "target": "t"}, "prompt", "is missing"),
        ({"prompt": None, "target": "t"}, "prompt", "is missing"),
        ({"prompt": "", "target": "t"}, "prompt", "is empty"),
        ({"prompt": " \n", "target": "t"}, "prompt", "is empty"),
        ({"prompt": "p", "target": ""}, "target", "is empty"),
        ({"prompt": "p", "target": []}, "target", "is empty"),
        ({"prompt": "p", "target": ["t", " "]}, "target", "is empty"),
        ({"prompt": "p", "target": float("nan")}, "target", "is missing"),
        ({"prompt": 5, "target": "t"}, "prompt", "must be text, not a number"),
        ({"prompt": ["p"], "target": "t"}, "prompt", "must be text, not a list"),
        ({"prompt": "p", "target": 5}, "target", "list of texts, not a number"),
        ({"prompt": "p", "target": True}, "target", "list of texts, not true or false"),
        ({"prompt": "p", "target": {"a": 1}}, "target", "list of texts, not an object"),
        ({"prompt": "p", "target": ["t", 5]}, "target", "must hold texts, not a number"),
        ({"prompt": "p", "target": "t", "subject": 5}, "subject", "must be text, not a number"),
        ({"prompt": "p", "target": "t", "id": ["x"]}, "id", "text or a number, not a list"),
        ({"prompt": "p", "target": "t", "id": True}, "id", "text or a number, not true or false"),
        ({"prompt": "p", "target": "t", "probes": "x"}, "probes", "list of probes, not text"),
        ({"prompt": "p", "target": "t", "probes": {}}, "probes", "list of probes, not an object"),
    ],
)
def test_broken_fields_are_named(record: dict[str, Any], field: str, said: str) -> None:
    with pytest.raises(RecordError) as caught:
        to_case(record, 1)
    assert caught.value.field == field
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("probe", "field", "said"),
    [
        ("x", "", "must be an object, not text"),
        ({"prompt": "p", "target": "t"}, ".kind", "is missing; known are rephrase, locality"),
        ({"kind": "speed", "prompt": "p", "target": "t"}, ".kind", "is 'speed'; known are"),
        ({"kind": ["rephrase"], "prompt": "p", "target": "t"}, ".kind", "known are"),
        ({"kind": "locality", "target": "t"}, ".prompt", "is missing"),
        ({"kind": "locality", "prompt": "", "target": "t"}, ".prompt", "is empty"),
        ({"kind": "locality", "prompt": 1, "target": "t"}, ".prompt", "must be text"),
        ({"kind": "locality", "prompt": "p"}, ".target", "is missing"),
        ({"kind": "multihop", "prompt": "p", "target": None}, ".target", "is missing"),
        ({"kind": "rephrase", "prompt": "p", "target": ""}, ".target", "is empty"),
        ({"kind": "rephrase", "prompt": "p", "target": 1}, ".target", "not a number"),
    ],
)
def test_broken_native_probes_are_named(probe: Any, field: str, said: str) -> None:
    good = {"kind": "rephrase", "prompt": "p", "target": "t"}
    with pytest.raises(RecordError) as caught:
        to_case({"prompt": "p", "target": "t", "probes": [good, probe]}, 1)
    assert caught.value.field == f"probes[1]{field}"
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"prompt": ""}, "is empty"),
        ({"prompt": 1}, "must be text"),
        ({"q": "p"}, "no known layout"),
    ],
)
def test_broken_prompts(record: dict[str, Any], said: str) -> None:
    with pytest.raises(RecordError, match=said):
        to_prompts(record, 1)
