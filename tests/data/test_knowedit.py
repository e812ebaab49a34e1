"""KnowEdit's layout, fields that are not read, and reading on after a fault."""

import json
import warnings

import pytest

from ultraedit.data import Fault, UnreadFieldWarning, read_cases
from ultraedit.errors import InputError
from ultraedit.records import Probe

RECORD = {
    "subject": "Dovel", "prompt": "The mayor of Dovel is", "target_new": "Ann Pike",
    "ground_truth": [["Ida Wren", "I. Wren"]], "rephrase": "Dovel's mayor is",
    "portability": {
        "Reasoning": [
            {"prompt": "The mayor of Dovel was born in", "ground_truth": [["Crane", "Hill"]]},
            {"prompt": "The mayor of Dovel studied", "ground_truth": [["law"], ["tax law"]]},
        ],
        "Subject_Aliasing": [{"prompt": "Old Dovel's mayor is", "ground_truth": []}],
        "Logical_Generalization": [{"prompt": "Ann Pike runs", "ground_truth": "Dovel"}],
    },
    "locality": {
        "Relation_Specificity": [
            {"prompt": "Dovel lies in", "ground_truth": [["Fenland"]]},
            {"prompt": "Dovel's anthem is", "ground_truth": []},
        ],
        "Forgetfulness": {"prompt": "Dovel was founded in", "ground_truth": ["1202"]},
    },
}  # fmt: skip


def write(path, *records):
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in records))
    return path


def test_every_question_becomes_a_probe_of_its_kind(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnreadFieldWarning)
        (case,) = read_cases(write(tmp_path / "k.jsonl", RECORD))
    assert set(case.probes) == {
        Probe("rephrase", "Dovel's mayor is", "Ann Pike"),
        Probe("reasoning", "The mayor of Dovel was born in", ("Crane", "Hill")),
        Probe("reasoning", "The mayor of Dovel studied", ("law", "tax law")),
        Probe("aliasing", "Old Dovel's mayor is", "Ann Pike"),
        Probe("logical", "Ann Pike runs", "Dovel"),
        Probe("locality", "Dovel lies in", "Fenland"),
        Probe("locality", "Dovel was founded in", "1202"),
    }


@pytest.mark.parametrize("groups", [{}, {"portability": {}, "locality": {}},
                                    {"portability": None, "locality": {"A": []}}])  # fmt: skip
def test_a_record_without_questions_is_one(tmp_path, groups):
    record = {k: v for k, v in RECORD.items() if k not in ("portability", "locality", "rephrase")}
    (case,) = read_cases(write(tmp_path / "k.jsonl", record | groups))
    assert case.probes == ()


def test_a_question_that_is_none_is_named(tmp_path):
    broken = RECORD | {"locality": {"Forgetfulness": ["Dovel was founded in"]}}
    with pytest.raises(InputError, match=r"field 'locality\.Forgetfulness\[0\]'.*an object"):
        list(read_cases(write(tmp_path / "k.jsonl", broken)))


def test_questions_that_are_not_read_are_named_once_for_a_file(tmp_path):
    native = {"prompt": "a", "target": "b", "portability_q": "And who?", "note": "no question"}
    other = native | {"extra": [{"text": "Which one is it?"}]}
    file = write(tmp_path / "n.jsonl", native, native, other)
    with pytest.warns(UnreadFieldWarning) as caught:
        assert len(list(read_cases(file))) == 3
    assert [str(one.message) for one in caught] == [
        f"{file}: not read: portability_q",
        f"{file}: not read: extra",
    ]
    more = RECORD | {"portability": {"Sideways": [{"prompt": "p", "ground_truth": "a"}]}}
    with pytest.warns(UnreadFieldWarning, match=r"not read: portability\.Sideways"):
        list(read_cases(write(tmp_path / "k.jsonl", more)))


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_reading_goes_on_after_a_broken_record(tmp_path, suffix):
    if suffix == "jsonl":
        lines = ('{"prompt": "p", "target": "t"}', '{"prompt": ', '{"prompt": "", "target": "t"}',
                 "[]", '{"prompt": "q", "target": "t"}')  # fmt: skip
        file = write(tmp_path / "r.jsonl", *lines)
        faulty = [2, 3, 4]
    else:
        file = write(tmp_path / "r.csv", "prompt,target", "p,t", "p", ",t", "q,[{", "q,t")
        faulty = [2, 3, 4]
    faults: list[Fault] = []
    cases = list(read_cases(file, on_fault=faults.append))
    assert [case.edit.prompt for case in cases] == ["p", "q"]
    assert [fault.number for fault in faults] == faulty
    if suffix == "jsonl":
        assert [fault.record for fault in faults][:2] == [lines[1], json.loads(lines[2])]
    with pytest.raises(InputError, match="record 2"):
        list(read_cases(file))


def test_faults_of_one_kind_have_one_name(tmp_path):
    def check(edit, number):
        if edit.target != "t":
            raise InputError(f"edit {edit.id or number}: prompt {edit.prompt!r} is {number} long")

    records = [{"prompt": f"p{n}", "target": "u"} for n in range(3)]
    faults: list[Fault] = []
    file = write(tmp_path / "r.jsonl", *records, {"prompt": "p", "target": "t"})
    assert len(list(read_cases(file, check=check, on_fault=faults.append))) == 1
    assert {fault.kind for fault in faults} == {"prompt ... is ... long"}
    assert [fault.record for fault in faults] == records
