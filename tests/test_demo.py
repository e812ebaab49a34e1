"""The embedded model is what the documentation says."""

import csv
import json
import random
from pathlib import Path

import pytest

from ultraedit import Editor
from ultraedit.cli.console import quiet_libraries
from ultraedit.data import read_cases
from ultraedit.demo import CASES_FILE, FACTS_FILE, MODEL_FOLDER


@pytest.fixture(scope="module")
def editor():
    quiet_libraries()
    return Editor.from_pretrained("demo", device="cpu", method="ultraedit")


@pytest.fixture(scope="module")
def cases():
    return list(read_cases(CASES_FILE))


def test_size_and_number_of_facts():
    weights = sum(path.stat().st_size for path in MODEL_FOLDER.glob("*.safetensors"))
    assert weights <= 20_000_000
    with FACTS_FILE.open(encoding="utf-8") as file:
        facts = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    assert len({(fact["relation"], fact["subject"]) for fact in facts}) >= 8000
    assert json.loads((MODEL_FOLDER / "config.json").read_text())["dtype"] == "float32"


def test_its_tokenizer_begins_sequences(editor):
    ids = editor.tokenizer("Who runs Adobe?")["input_ids"]
    assert ids[0] == editor.tokenizer.bos_token_id
    assert ids[-1] != editor.tokenizer.eos_token_id


def test_it_knows_its_facts_by_free_answer(editor, cases):
    """Locality probes ask known facts in trained phrasings."""
    sample = random.Random(7).sample(cases, 100)
    report = editor.evaluate(sample, generate=True)
    assert report.after["locality"]["generation"] >= 0.97


def test_cases_are_counterfactual_and_their_probes_apart(cases):
    facts = {}
    with FACTS_FILE.open(encoding="utf-8") as file:
        for fact in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            facts.setdefault(fact["subject"], set()).add(fact["answer"])
    edited = {case.edit.subject for case in cases}
    assert len(edited) > 900
    for case in cases:
        assert [probe.kind for probe in case.probes] == ["rephrase"] * 2 + ["locality"] * 2
        assert case.edit.answers[0] not in facts[case.edit.subject]
        assert all(case.edit.subject in probe.prompt for probe in case.probes[:2])
        for probe in case.probes[2:]:
            assert any(
                subject in probe.prompt and probe.answers[0] in facts[subject]
                for subject in facts.keys() - edited
            )


def test_a_hot_fix(cases):
    editor = Editor.from_pretrained("demo", device="cpu", method="ultraedit")
    case = cases[0]
    before = editor.ask(case.edit.prompt)
    assert before != case.edit.target
    assert editor.edit([case.edit]).learned == (True,)
    assert editor.ask(case.edit.prompt) == case.edit.target
    with editor.unedited():
        assert editor.ask(case.edit.prompt) == before


def test_the_wheel_would_carry_it():
    root = Path(__file__).parents[1]
    if not (root / "pyproject.toml").exists():
        pytest.skip("not a source tree")
    assert MODEL_FOLDER.is_relative_to(root / "src" / "ultraedit")
    assert (MODEL_FOLDER / "tokenizer.json").exists()
