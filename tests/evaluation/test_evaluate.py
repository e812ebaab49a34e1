import pytest
import torch

from ultraedit import Case, Edit, Editor, InputError, Probe
from ultraedit.evaluation.report import Tally, mean_scores

CASES = [
    Case(
        Edit("the capital of france is", "city", id="one"),
        (
            Probe("rephrase", "what is the capital of france", "city"),
            Probe("rephrase", "france capital", "city"),
            Probe("locality", "jazz guitar was", "person born"),
            Probe("persona", "who is paris", "city"),
            Probe("multihop", "where was jazz", "in paris"),
        ),
    ),
    Case(Edit("who plays jazz", ("guitar", "paris"))),
]


@pytest.fixture
def editor(build, tokenizer):
    editor = Editor(build("llama"), tokenizer, lr=0.05, method="ultraedit")
    editor.edit([case.edit for case in CASES])
    return editor


def test_every_kind_before_and_after(editor):
    report = editor.evaluate(CASES, generate=True)
    assert report.count == 2
    assert report.counts == {
        "efficacy": 2, "rephrase": 1, "locality": 1, "persona": 1, "multihop": 1
    }  # fmt: skip
    for scores in (report.before, report.after):
        assert set(scores) == set(report.counts)
        for metrics in scores.values():
            assert {"token_accuracy", "exact_match", "generation"} <= set(metrics)
            assert all(0 <= value <= 1 for value in metrics.values())
    assert report.before["locality"]["agreement"] == 1
    assert report.after["efficacy"]["token_accuracy"] > report.before["efficacy"]["token_accuracy"]
    assert [case.id for case in report.cases] == ["one", "2"]
    assert set(report.cases[0].answers["after"]) == set(report.counts)


def test_the_baseline_is_the_model_before_editing(build, tokenizer, editor):
    fresh = Editor(build("llama"), tokenizer, method="ultraedit")
    before, expected = editor.evaluate(CASES).before, fresh.evaluate(CASES).after
    assert before == expected


def test_agreement_sees_what_the_reference_does_not(editor):
    """The unedited model's own answer is wrong by the reference and yet must not change."""
    own = editor.evaluate(CASES).before["locality"]
    assert own["token_accuracy"] < 1
    assert own["agreement"] == own["agreement_exact"] == 1


def test_the_best_accepted_answer_counts(editor):
    both = editor.evaluate(CASES[1:]).after["efficacy"]["token_accuracy"]
    single = [
        editor.evaluate([Case(Edit("who plays jazz", answer))]).after["efficacy"]["token_accuracy"]
        for answer in ("guitar", "paris")
    ]
    assert both == max(single)


def test_a_case_counts_once_however_many_questions_it_has():
    tally = Tally()
    tally.add(mean_scores([("rephrase", {"token_accuracy": 1.0})] * 9))
    tally.add(mean_scores([("rephrase", {"token_accuracy": 0.0})]))
    assert tally.means() == {"rephrase": {"token_accuracy": 0.5}}


def test_evaluating_changes_nothing(editor):
    weights = {name: p.clone() for name, p in editor.model.named_parameters()}
    editor.evaluate(CASES, generate=True)
    assert all(torch.equal(weights[name], p) for name, p in editor.model.named_parameters())


def test_perplexity_before_and_after(editor, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("who was the person born in paris\n" * 9)
    drift = editor.evaluate(CASES, text=path).perplexity
    assert drift["before"] != drift["after"]
    with editor.unedited():
        assert editor.evaluate(CASES[:1], text=path).perplexity["after"] == drift["before"]


def test_chunks_do_not_change_the_result(editor, monkeypatch):
    whole = editor.evaluate(CASES * 3)
    from ultraedit.evaluation import evaluate as module

    monkeypatch.setattr(module, "CHUNK", 1)
    pieces = editor.evaluate(CASES * 3)
    for kind, metrics in whole.after.items():
        assert pieces.after[kind] == pytest.approx(metrics)


def test_cases_are_read_lazily_and_handed_on(editor):
    seen = []
    report = editor.evaluate(iter(CASES), keep_cases=False, on_case=lambda r: seen.append(r.id))
    assert seen == ["one", "2"]
    assert report.cases == ()


def test_no_cases_is_an_error(editor):
    with pytest.raises(InputError, match="no cases"):
        editor.evaluate([])


def test_a_question_too_long_for_the_model_is_named(editor):
    long = Case(Edit("who plays jazz", "guitar", id="long"), (Probe("rephrase", "x y " * 90, "z"),))
    with pytest.raises(InputError, match="rephrase of case long is .* tokens"):
        editor.evaluate([long])
