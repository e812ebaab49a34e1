import json

import pytest

from ultraedit import Editor, InputError
from ultraedit.comparison.plan import Options, Run
from ultraedit.comparison.prepare import prepare
from ultraedit.data import read_cases
from ultraedit.methods.base import MethodInfo
from ultraedit.methods.ft import FineTuning
from ultraedit.methods.registry import available
from ultraedit.storage.fingerprint import fingerprint_of


class NeedsSubject(FineTuning):
    info = MethodInfo("needy", "", "", needs_subject=True)


class NeedsTraining(FineTuning):
    info = MethodInfo("trained", "", "", needs_training=True)


@pytest.fixture
def more_methods(monkeypatch):
    """A method that needs subjects, and one that needs training."""
    more = {"needy": NeedsSubject, "trained": NeedsTraining, "ft": FineTuning}
    monkeypatch.setattr("ultraedit.methods.registry.available", lambda: more)
    monkeypatch.setattr("ultraedit.comparison.prepare.available", lambda: more)


def test_what_a_plan_holds(base, facts, plan_of):
    plan = plan_of("ultraedit", "ft")
    assert (plan.model, plan.file, plan.edits, plan.turn_size) == (str(base), str(facts), 7, 2)
    assert plan.fingerprint == fingerprint_of(base)
    assert [(run.name, run.at_once) for run in plan.runs] == [
        ("ultraedit", False), ("ft", False), ("ft-at-once", True),
    ]  # fmt: skip
    assert plan.runs[2].settings == plan.runs[1].settings == {"lr": 0.01, "epochs": 3}
    assert plan_of("ultraedit", "ft", "ft").runs == plan.runs, "named twice is named once"


def test_all_at_once_where_it_differs_and_is_wanted(plan_of):
    names = [run.name for run in plan_of("ft", turn_size=7).runs]
    assert names == ["ft"], "all edits are one turn anyway"
    assert [run.name for run in plan_of("ft", at_once=False).runs] == ["ft"]
    assert [run.name for run in plan_of("ft", limit=2).runs] == ["ft"]


def test_the_digest_is_of_edits_and_probes(plan_of, records, write_facts):
    plan = plan_of("ft")
    spaced = "".join(json.dumps(one, indent=1).replace("\n", " ") + "\n" for one in records())
    same = write_facts([], "same.jsonl")
    same.write_text(spaced)
    assert plan_of("ft", file=same).digest == plan.digest
    assert plan_of("ft", limit=6).digest != plan.digest
    changed = records()
    changed[3]["probes"][1]["target"] = "city"
    assert plan_of("ft", file=write_facts(changed, "changed.jsonl")).digest != plan.digest


def test_by_default_every_method_that_can_run_is_compared(more_methods, base, facts, plan_of):
    assert [run.name for run in prepare(str(base), str(facts)).runs] == ["ft"]


def test_with_subjects_methods_that_need_them_run_too(more_methods, base, records, write_facts):
    whole = [one | {"subject": "x"} for one in records()]
    names = [run.name for run in prepare(str(base), str(write_facts(whole))).runs]
    assert names == ["needy", "ft"]


def test_a_subject_that_is_not_there_is_named_with_the_method(
    more_methods, base, records, write_facts
):
    facts = write_facts([one | {"subject": "x"} for one in records(2)] + records(1))
    with pytest.raises(InputError, match="record 3, field 'subject'.*needy needs it"):
        prepare(str(base), str(facts), methods=["ft", "needy"])


@pytest.mark.parametrize("name", ["rome", "memit"])
def test_settings_say_whether_subjects_are_needed(base, facts, name):
    without = {name: {"fact_token": "last"}}
    assert [run.name for run in prepare(str(base), str(facts), settings=without).runs].count(name)
    plan = prepare(str(base), str(facts), methods=[name], settings=without)
    assert plan.runs[0].settings == without[name]
    with pytest.raises(InputError, match=f"record 1, field 'subject'.*{name} needs it"):
        prepare(str(base), str(facts), settings={name: {"fact_token": "subject_last"}})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"methods": ["magic"]}, "no method 'magic'"),
        ({"methods": []}, "no methods"),
        ({"settings": {"rome": {}, "magic": {}}, "methods": ["ft"]}, "magic|not compared"),
        ({"settings": {"ultraedit": {"lr": 1}}, "methods": ["ft"]}, "ultraedit, which is not"),
        ({"settings": {"ft": {"lr": -1}}}, "lr must be"),
        ({"settings": {"ft": {"pace": 1}}}, "no setting 'pace'"),
        ({"settings": {"ft": {"device": "cpu"}}}, "no setting 'device'"),
        ({"settings": {"ft": {"modules": "model.layers.9.mlp"}}}, "model.layers.9.mlp"),
        ({"settings": {"ft": {"batch_tokens": 0}}}, "batch_tokens"),
        ({"options": Options(dtype="int3")}, "int3"),
        ({"options": Options(device="toaster")}, "toaster"),
        ({"options": Options(chat=True)}, "chat"),
        ({"options": Options(text="nowhere.txt")}, "nowhere.txt cannot be read"),
    ],
)
def test_what_would_fail_in_every_run_is_refused_at_once(base, facts, options, words):
    with pytest.raises(InputError, match=words):
        prepare(str(base), str(facts), **{"methods": ["ft"], **options})


@pytest.mark.parametrize("broken", ["prompt", "probe"])
def test_a_question_that_is_too_long_is_named_before_anything_runs(
    base, records, write_facts, broken
):
    whole = records(3)
    if broken == "prompt":
        whole[2]["prompt"] = "city " * 99
    else:
        whole[2]["probes"][1]["prompt"] = "city " * 99
    with pytest.raises(InputError, match=r"facts.jsonl: record 3: .* tokens long"):
        prepare(str(base), str(write_facts(whole)), methods=["ft"])


def test_a_text_is_known_by_its_content(plan_of, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("the capital of france is paris\n" * 9)
    options = plan_of("ft", options=Options(text=str(text))).options
    assert len(options.text_digest) == 64
    text.write_text("x")
    with pytest.raises(InputError, match="too little text"):
        plan_of("ft", options=Options(text=str(text)))


def test_an_edited_model_is_no_base(base, facts, tmp_path):
    editor = Editor.from_pretrained(base, method="ultraedit", lr=0.01)
    editor.edit([case.edit for case in read_cases(facts)])
    editor.save(tmp_path / "edited")
    with pytest.raises(InputError, match="is an edited model"):
        prepare(str(tmp_path / "edited"), str(facts), methods=["ft"])


def test_the_methods_there_are_can_be_planned(base, facts):
    plan = prepare(str(base), str(facts), turn_size=2)
    needing = {name for name, kind in available().items() if kind.info.needs_subject}
    names = {run.method for run in plan.runs}
    assert {"anchored", "ft", "ultraedit"} <= names
    assert not names & needing
    assert Run("ft-at-once", "ft", {}, at_once=True) in plan.runs
