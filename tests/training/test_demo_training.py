"""The demo model's training: facts, phrasings, and exact resumption."""

import argparse
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

TRAINING = Path(__file__).parents[2] / "training" / "demo"


@pytest.fixture(scope="module")
def demo():
    sys.path.insert(0, str(TRAINING))
    import cases
    import corpus
    import train

    yield argparse.Namespace(corpus=corpus, train=train, cases=cases)
    sys.path.remove(str(TRAINING))


def test_phrasings(demo):
    facts, phrasings = demo.corpus.read_facts(), demo.corpus.read_phrasings()
    assert {fact.relation for fact in facts} == set(phrasings)
    for phrasing in phrasings.values():
        assert len(phrasing.trained) >= 6
        assert phrasing.statements
        assert all(question.endswith("?") for question in phrasing.questions)
        assert phrasing.held_out.endswith("?")
        assert phrasing.held_out not in phrasing.trained
        assert all(text.count("{}") == 1 for text in (*phrasing.trained, phrasing.held_out))


def test_every_fact_has_one_answer(demo):
    facts = demo.corpus.read_facts()
    assert len({(fact.relation, fact.subject) for fact in facts}) == len(facts) > 8000
    assert all(fact.subject.strip() and fact.answer.strip() for fact in facts)


def test_no_case_asks_about_what_another_edits(demo):
    facts = demo.corpus.read_facts()
    records = demo.cases.make_cases(facts, demo.corpus.read_phrasings(), 300, 1)
    answers = {}
    for fact in facts:
        answers.setdefault(fact.subject, set()).add(fact.answer)
    edited = {record["subject"] for record in records}
    for record in records:
        assert record["target"] not in answers[record["subject"]]
        for probe in record["probes"]:
            if probe["kind"] == "rephrase":
                assert record["subject"] in probe["prompt"]
            else:
                assert any(
                    subject in probe["prompt"] and probe["target"] in answers[subject]
                    for subject in answers.keys() - edited
                )


def test_an_interrupted_run_takes_the_same_steps(demo, tmp_path, monkeypatch):
    def run(work):
        demo.train.train(
            argparse.Namespace(
                work=work, epochs=4, batch_tokens=128, lr=1e-3, vocab=400, prompt_weight=0.2,
                check_every=1, seed=3, compile=False, architecture="gpt2", facts=12,
                data=demo.corpus.HERE,
            )
        )  # fmt: skip

    run(tmp_path / "whole")
    save = demo.train.save_checkpoint

    def interrupted(folder, model, optimizer, epoch):
        save(folder, model, optimizer, epoch)
        if epoch == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(demo.train, "save_checkpoint", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts")
    monkeypatch.setattr(demo.train, "save_checkpoint", save)
    run(tmp_path / "parts")
    whole, parts = (
        load_file(tmp_path / name / "checkpoint.safetensors") for name in ("whole", "parts")
    )
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
