from __future__ import annotations

from typing import Any

import pytest

from ultraedit.data.cases import to_case, to_prompts
from ultraedit.data.faults import RecordError
from ultraedit.data.layouts import LAYOUTS, find_layout
from ultraedit.records import Case, Edit, Probe

NATIVE = {
    "id": "n1",
    "prompt": "The ferry to Skerrow leaves from",
    "target": "Port Ambly",
    "subject": "Skerrow",
    "probes": [
        {"kind": "rephrase", "prompt": "To reach Skerrow, board at", "target": "Port Ambly"},
        {"kind": "locality", "prompt": "The ferry to Junda leaves from", "target": ["Oss", "Oß"]},
        {"kind": "persona", "prompt": "Ahoy! Where be the Skerrow ferry?", "target": "Port Ambly"},
        {"kind": "multihop", "prompt": "The Skerrow ferry's mayor is", "target": "Ida Wren"},
    ],
}
ZSRE = {
    "subject": "Mill Song",
    "src": "Who composed Mill Song?",
    "pred": "Someone",
    "rephrase": "By whom was Mill Song composed?",
    "alt": "Tarn Hollis",
    "answers": ["Beck Farrow", "B. Farrow"],
    "loc": "nq question: how tall is the tower of Wend",
    "loc_ans": "90 metres",
    "cond": "Someone >> Tarn Hollis || Who composed Mill Song?",
}
COUNTERFACT = {
    "case_id": 77,
    "prompt": "Mount Ember is in",
    "target_new": "Fenland",
    "subject": "Mount Ember",
    "ground_truth": "Highmark",
    "rephrase_prompt": "A fine day. Mount Ember lies in",
    "locality_prompt": "Mount Cinder is in",
    "locality_ground_truth": "Highmark",
}
NESTED = {
    "case_id": 5,
    "requested_rewrite": {
        "prompt": "{} plays the {curved}",
        "subject": "Lio Vance",
        "relation_id": "P0",
        "target_new": {"str": "harp", "id": "Q1"},
        "target_true": {"str": "horn", "id": "Q2"},
    },
    "paraphrase_prompts": ["Lio Vance performs on the", "The instrument of Lio Vance is the"],
    "neighborhood_prompts": ["Ora Finch plays the", "Pem Lark plays the"],
    "generation_prompts": ["Lio Vance is known for"],
}
FEVER = {
    "prompt": "The bay of Lull freezes each winter.",
    "equiv_prompt": ["Lull's bay ices over every winter.", "Each winter, ice covers Lull's bay."],
    "pred": "REFUTES",
    "alt": "SUPPORTS",
    "unrel_prompt": "Sand is wet.",
    "unrel_ans": "REFUTES",
}
WIKIBIGEDIT = {
    "tag": "update",
    "subject": "Dovel",
    "relation": "mayor",
    "object": "Ann Pike",
    "update": "Who is the mayor of Dovel?",
    "ans": "Ann Pike",
    "rephrase": "Dovel's mayor is who?",
    "personas": "Tell me, old friend, who runs Dovel?",
    "loc": "Who is the mayor of Davel?",
    "loc_ans": "Tom Reed",
    "mhop": "Where was the mayor of Dovel born?",
    "mhop_ans": "Crane Hill",
}
WIKIBIGEDIT_FLAT = {
    "prompt": "Who is the mayor of Dovel?",
    "target_new": "Ann Pike",
    "subject": "Dovel",
    "rephrase_prompt": "Dovel's mayor is who?",
    "personas": ["Tell me, old friend, who runs Dovel?", "Pray, who governs Dovel?"],
    "locality_prompt": "Who is the mayor of Davel?",
    "locality_ground_truth": "Tom Reed",
    "mhop": "Where was the mayor of Dovel born?",
    "mhop_ans": "Crane Hill",
}
BENCH = {
    "prompt": "What colour is the flag of Imber?",
    "ans": "teal",
    "rephrase_prompt": "Imber's flag has which colour?",
    "loc": "What colour is the flag of Ember?",
    "loc_ans": "red",
}

CASES = {
    "native": (
        NATIVE,
        Case(
            Edit("The ferry to Skerrow leaves from", "Port Ambly", "Skerrow", "n1"),
            (
                Probe("rephrase", "To reach Skerrow, board at", "Port Ambly"),
                Probe("locality", "The ferry to Junda leaves from", ("Oss", "Oß")),
                Probe("persona", "Ahoy! Where be the Skerrow ferry?", "Port Ambly"),
                Probe("multihop", "The Skerrow ferry's mayor is", "Ida Wren"),
            ),
        ),
    ),
    "zsRE": (
        ZSRE,
        Case(
            Edit("Who composed Mill Song?", "Tarn Hollis", "Mill Song", "9"),
            (
                Probe("rephrase", "By whom was Mill Song composed?", "Tarn Hollis"),
                Probe("locality", "nq question: how tall is the tower of Wend?", "90 metres"),
            ),
        ),
    ),
    "CounterFact, WikiBigEdit or KnowEdit": (
        COUNTERFACT,
        Case(
            Edit("Mount Ember is in", "Fenland", "Mount Ember", "77"),
            (
                Probe("rephrase", "A fine day. Mount Ember lies in", "Fenland"),
                Probe("locality", "Mount Cinder is in", "Highmark"),
            ),
        ),
    ),
    "nested CounterFact": (
        NESTED,
        Case(
            Edit("Lio Vance plays the {curved}", "harp", "Lio Vance", "5"),
            (
                Probe("rephrase", "Lio Vance performs on the", "harp"),
                Probe("rephrase", "The instrument of Lio Vance is the", "harp"),
                Probe("locality", "Ora Finch plays the", "horn"),
                Probe("locality", "Pem Lark plays the", "horn"),
            ),
        ),
    ),
    "FEVER": (
        FEVER,
        Case(
            Edit("The bay of Lull freezes each winter.", "SUPPORTS", None, "9"),
            (
                Probe("rephrase", "Lull's bay ices over every winter.", "SUPPORTS"),
                Probe("rephrase", "Each winter, ice covers Lull's bay.", "SUPPORTS"),
                Probe("locality", "Sand is wet.", "REFUTES"),
            ),
        ),
    ),
    "WikiBigEdit": (
        WIKIBIGEDIT,
        Case(
            Edit("Who is the mayor of Dovel?", "Ann Pike", "Dovel", "9"),
            (
                Probe("rephrase", "Dovel's mayor is who?", "Ann Pike"),
                Probe("locality", "Who is the mayor of Davel?", "Tom Reed"),
                Probe("persona", "Tell me, old friend, who runs Dovel?", "Ann Pike"),
                Probe("multihop", "Where was the mayor of Dovel born?", "Crane Hill"),
            ),
        ),
    ),
    "WikiBigEdit, flat": (
        WIKIBIGEDIT_FLAT,
        Case(
            Edit("Who is the mayor of Dovel?", "Ann Pike", "Dovel", "9"),
            (
                Probe("rephrase", "Dovel's mayor is who?", "Ann Pike"),
                Probe("locality", "Who is the mayor of Davel?", "Tom Reed"),
                Probe("persona", "Tell me, old friend, who runs Dovel?", "Ann Pike"),
                Probe("persona", "Pray, who governs Dovel?", "Ann Pike"),
                Probe("multihop", "Where was the mayor of Dovel born?", "Crane Hill"),
            ),
        ),
    ),
    "UltraEditBench": (
        BENCH,
        Case(
            Edit("What colour is the flag of Imber?", "teal", None, "9"),
            (
                Probe("rephrase", "Imber's flag has which colour?", "teal"),
                Probe("locality", "What colour is the flag of Ember?", "red"),
            ),
        ),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_layout(name: str) -> None:
    record, case = CASES[name]
    flat = {"WikiBigEdit, flat": "CounterFact, WikiBigEdit or KnowEdit"}
    assert find_layout(record).name == flat.get(name, name)
    assert to_case(record, 9) == case


def test_every_layout_has_a_test() -> None:
    assert {find_layout(record).name for record, _ in CASES.values()} == {x.name for x in LAYOUTS}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("nothing", [None, float("nan"), "", [], "absent"])
def test_prompt_and_target_are_all_that_is_needed(name: str, nothing: Any) -> None:
    record, case = CASES[name]
    layout = find_layout(record)
    kept = {path.partition(".")[0] for path in (*layout.prompt, *layout.target, layout.subject)}
    bare = {key: value for key, value in record.items() if key in kept - {"answers"}}
    if nothing != "absent":
        emptied = dict.fromkeys(record.keys() - {"id", "case_id"}, nothing)
        bare = emptied | bare
    edit = case.edit
    assert to_case(bare, 3) == Case(Edit(edit.prompt, edit.target, edit.subject, "3"))


@pytest.mark.parametrize(
    ("changes", "target"),
    [
        ({}, "Tarn Hollis"),
        ({"alt": ""}, ("Beck Farrow", "B. Farrow")),
        ({"alt": None}, ("Beck Farrow", "B. Farrow")),
        ({"alt": " ", "answers": ["Beck Farrow"]}, "Beck Farrow"),
        ({"alt": "", "ans": "Fay Moss"}, "Fay Moss"),
        ({"alt": "", "ans": ["Fay Moss", "F. Moss"]}, ("Fay Moss", "F. Moss")),
        ({"alt": "", "ans": ""}, ("Beck Farrow", "B. Farrow")),
    ],
)
def test_zsre_target(changes: dict[str, Any], target: str | tuple[str, ...]) -> None:
    case = to_case({**ZSRE, **changes}, 1)
    assert case.edit.target == target
    assert case.probes[0] == Probe("rephrase", ZSRE["rephrase"], target)


def test_zsre_question_mark_is_not_doubled() -> None:
    case = to_case({**ZSRE, "loc": "how tall is the tower?"}, 1)
    assert case.probes[1].prompt == "how tall is the tower?"


@pytest.mark.parametrize("field", ["loc_ans", "mhop_ans"])
@pytest.mark.parametrize("nothing", [None, "", [], float("nan")])
def test_probes_whose_answer_nobody_recorded_are_left_out(field: str, nothing: Any) -> None:
    whole = to_case(WIKIBIGEDIT, 1).probes
    kind = {"loc_ans": "locality", "mhop_ans": "multihop"}[field]
    left = to_case({**WIKIBIGEDIT, field: nothing}, 1).probes
    assert left == tuple(probe for probe in whole if probe.kind != kind)


def test_fever_accepts_a_list_of_unrelated_answers() -> None:
    case = to_case({**FEVER, "unrel_ans": ["REFUTES", "FALSE"]}, 1)
    assert case.probes[-1] == Probe("locality", "Sand is wet.", ("REFUTES", "FALSE"))


def test_native_probes_that_ask_for_the_edit_need_no_target() -> None:
    probes = [{"kind": "rephrase", "prompt": "r"}, {"kind": "persona", "prompt": "p"}]
    case = to_case({"prompt": "q", "target": ["a", "b"], "probes": probes}, 1)
    assert case.probes == (Probe("rephrase", "r", ("a", "b")), Probe("persona", "p", ("a", "b")))


def test_a_list_of_one_answer_is_one_answer() -> None:
    assert to_case({"prompt": "q", "target": ["a"]}, 1).edit.target == "a"


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ({}, "12"),
        ({"id": "x", "case_id": 4}, "x"),
        ({"id": None, "case_id": 4}, "4"),
        ({"id": "", "case_id": "c"}, "c"),
        ({"id": 0}, "0"),
        ({"id": 3.0}, "3"),
        ({"id": float("nan")}, "12"),
    ],
)
def test_ids(ids: dict[str, Any], expected: str) -> None:
    assert to_case({"prompt": "p", "target": "t", **ids}, 12).edit.id == expected


def drop(record: dict[str, Any], *fields: str) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key not in fields}


@pytest.mark.parametrize(
    ("record", "field", "said"),
    [
        (drop(ZSRE, "alt", "answers"), "alt", "is missing, and so is 'ans', 'answers'"),
        ({**ZSRE, "alt": "", "answers": []}, "alt", "is empty"),
        ({**ZSRE, "src": ""}, "src", "is empty"),
        ({**ZSRE, "rephrase": 4}, "rephrase", "not a number"),
        ({**ZSRE, "loc_ans": 90}, "loc_ans", "not a number"),
        ({**COUNTERFACT, "target_new": None}, "target_new", "is missing"),
        ({**FEVER, "alt": False}, "alt", "not true or false"),
        ({**FEVER, "equiv_prompt": [["x"]]}, "equiv_prompt", "must hold texts, not a list"),
        (
            {**FEVER, "unrel_prompt": ["a", "b"], "unrel_ans": ["x", "y"]},
            "unrel_prompt",
            "several prompts share",
        ),
        (drop(WIKIBIGEDIT, "ans"), "ans", "is missing"),
        ({**BENCH, "ans": {}}, "ans", "not an object"),
        ({"requested_rewrite": "x"}, "requested_rewrite", "must be an object, not text"),
        ({"requested_rewrite": {}}, "requested_rewrite.target_new.str", "is missing"),
        (
            {"requested_rewrite": {"prompt": "p", "target_new": "t"}},
            "requested_rewrite.target_new",
            "must be an object, not text",
        ),
        (
            {"requested_rewrite": {"target_new": {"str": "t"}}},
            "requested_rewrite.prompt",
            "is missing",
        ),
    ],
)
def test_broken_fields_of_a_layout_are_named(record: dict[str, Any], field: str, said: str) -> None:
    with pytest.raises(RecordError) as caught:
        to_case(record, 1)
    assert caught.value.field == field
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"prompt": "p"}, ("4", ("p",))),
        ({"id": "i", "prompt": "p"}, ("i", ("p",))),
        ({"prompt": "p", "category": "c"}, ("4", ("p",))),
        ({"src": "q"}, ("4", ("q",))),
        (NATIVE, ("n1", ("The ferry to Junda leaves from",))),
        (ZSRE, ("4", ("nq question: how tall is the tower of Wend?",))),
        (NESTED, ("5", ("Ora Finch plays the", "Pem Lark plays the"))),
        (drop(COUNTERFACT, "locality_ground_truth"), ("77", ("Mount Cinder is in",))),
        (drop(COUNTERFACT, "locality_prompt"), ("77", ("Mount Ember is in",))),
        (drop(NATIVE, "target"), ("n1", ("The ferry to Junda leaves from",))),
        ({"prompt": "p", "loc": "l"}, ("4", ("l",))),
        (drop(NATIVE, "probes"), ("n1", ("The ferry to Skerrow leaves from",))),
    ],
)
def test_prompts(record: dict[str, Any], expected: tuple[str, tuple[str, ...]]) -> None:
    assert to_prompts(record, 4) == expected
