"""The demo model before and after edits of what is asked."""

import math
import random
from contextlib import contextmanager

import pytest
import torch

from ultraedit import InputError, UltraEditError
from ultraedit.ability import compare, measure, open_harness

CHANGED = 4


def row_of(report, task, metric="acc", filter_name=""):
    (row,) = [r for r in report.rows if r.after.key == (task, metric, filter_name)]
    return row


@pytest.fixture
def edited(editor, demo_cases):
    """The first four of the ten facts are no longer what they were."""
    editor.edit([case.edit for case in demo_cases[:CHANGED]])
    return editor


def test_an_unedited_model_differs_in_nothing(editor, data):
    report = measure(editor, ["openbook_qa", "winogrande"], data=data, limit=6)
    assert {row.after.task for row in report.rows} == {"openbook_qa", "winogrande"}
    for row in report.rows:
        assert row.before == row.after.value
        assert (row.difference.rose, row.difference.fell) == (0, 0)
        assert row.after.count == 6
    assert row_of(report, "openbook_qa").before == 1, "it knows all of them"


def test_edits_show_in_what_they_changed(edited, data):
    report = measure(edited, ["openbook_qa", "lambada_openai"], data=data)
    row = row_of(report, "openbook_qa")
    learned = sum(score == 0 for score in row.after.documents.values())
    assert row.before == 1
    assert 0 < learned <= CHANGED
    assert row.difference.mean == pytest.approx(-learned / 10)
    assert (row.difference.rose, row.difference.fell) == (0, learned)
    assert row.difference.low < row.difference.mean < row.difference.high
    changed = {place for (_, place, _), score in row.after.documents.items() if score == 0}
    assert changed <= set(range(CHANGED)), "only what was edited"
    perplexity = row_of(report, "lambada_openai", "perplexity")
    assert perplexity.difference is None
    assert perplexity.after.value > perplexity.before


def test_the_harness_itself_says_the_same(edited, data):
    """The same records through `simple_evaluate`, without anything of ours."""
    import yaml
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    from ultraedit.ability.isolation import isolated
    from ultraedit.ability.sources import READY_MADE

    names = ["openbook_qa", "lambada_openai", "triviaqa_sm_sub"]
    report = measure(edited, names, data=data, shots=1)
    configs = [yaml.safe_load((READY_MADE / f"{name}.yaml").read_text()) for name in names]
    for name, config in zip(names, configs, strict=True):
        config["dataset_kwargs"]["data_files"] = {"test": str(data / f"{name}.jsonl")}
    with isolated():
        asked = HFLM(pretrained=edited.model, tokenizer=edited.tokenizer, batch_size=3)
        results = simple_evaluate(
            model=asked,
            tasks=configs,
            num_fewshot=1,
            task_manager=TaskManager(include_defaults=False),
            bootstrap_iters=0,
        )["results"]
    for row in report.rows:
        task, metric, filter_name = row.after.key
        theirs = results[task][f"{metric},{filter_name or 'none'}"]
        assert row.after.value == pytest.approx(theirs, rel=1e-4), row.after.key


def test_free_answers(editor, data):
    report = measure(editor, ["triviaqa_sm_sub"], data=data)
    row = row_of(report, "triviaqa_sm_sub", "exact_match")
    assert row.before == row.after.value > 0.8, "its own answers, in full"


def test_model_tokenizer_and_process_are_as_before(edited, data):
    weights = {name: w.clone() for name, w in edited.model.state_dict().items()}
    parameters = {name: id(p) for name, p in edited.model.named_parameters()}
    edited.tokenizer.pad_token = None
    random.seed(5)
    expected, state = random.getstate(), torch.get_rng_state()
    measure(edited, ["openbook_qa"], data=data, limit=2)
    assert edited.tokenizer.pad_token is None
    assert random.getstate() == expected
    assert torch.equal(torch.get_rng_state(), state)
    assert {name: id(p) for name, p in edited.model.named_parameters()} == parameters
    for name, weight in edited.model.state_dict().items():
        assert torch.equal(weight, weights[name])


def test_one_reading_of_the_unedited_model_serves_many(edited, data):
    harness = open_harness(["openbook_qa"], data=data)
    with edited.unedited():
        before = harness.score(edited.model, edited.tokenizer)
    given = measure(edited, harness, before=before)
    own = measure(edited, harness)
    assert [row.to_dict() for row in given.rows] == [row.to_dict() for row in own.rows]
    short = harness.score(edited.model, edited.tokenizer, limit=3)
    with pytest.raises(InputError, match="7 documents were asked of one"):
        compare(harness, before, short)


def test_shots_come_from_other_documents_and_are_the_same_for_both(editor, data, demo_cases):
    assert open_harness(["openbook_qa", "gsm8k"], data=data).shots == {"openbook_qa": 0, "gsm8k": 5}
    harness = open_harness(["openbook_qa"], data=data, shots=2)
    prompts = []
    encode = editor.tokenizer.__class__.encode

    class Watching(type(editor.tokenizer)):
        def encode(self, text, **options):
            prompts.append(text)
            return encode(self, text, **options)

    editor.tokenizer.__class__ = Watching
    for _ in range(2):
        harness.score(editor.model, editor.tokenizer)
    half = len(prompts) // 2
    assert prompts[:half] == prompts[half:]
    asked = [case.edit.prompt for case in demo_cases]
    whole = [text for text in prompts if text.count("?") == 3]
    assert whole
    for text in whole:
        assert all(text.count(question) <= 1 for question in asked)


def test_progress_tells_all_that_is_done(editor, data):
    told = {}

    @contextmanager
    def progress(what, total):
        told[what] = [total, 0]

        def advance(steps):
            told[what][1] += steps

        yield advance

    measure(editor, ["openbook_qa", "triviaqa_sm_sub"], data=data, limit=5, progress=progress)
    for state in ("before", "after"):
        assert told[f"{state}: scoring texts"] == [10, 10], "two choices of five documents"
        assert told[f"{state}: writing answers"] == [5, 5]
        assert told[f"{state}: writing prompts"] == [5, 5]
    assert told["loading tasks"] == [2, 2]


def test_what_the_harness_refuses_is_one_line(editor, data):
    # 256 tokens of answer, and the demo model reads 256 in all.
    with pytest.raises(UltraEditError, match="the harness failed: .*256") as caught:
        measure(editor, ["gsm8k"], data=data, limit=1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"batch_size": 0}, "batch size 0"),
        ({"batch_size": "many"}, "batch size many"),
        ({"batch_size": "auto"}, "needs a GPU"),
        ({"chat": True}, "no chat template"),
    ],
)
def test_options_are_checked(editor, data, options, match):
    editor.tokenizer.chat_template = None
    with pytest.raises(InputError, match=match):
        measure(editor, ["openbook_qa"], data=data, **options)


def test_side_memories_are_asked_one_text_at_a_time(editor, data, monkeypatch):
    from ultraedit.ability.harness import Harness

    sizes = []
    score = Harness.score

    def watched(self, *given, **options):
        sizes.append(options["batch_size"])
        return score(self, *given, **options)

    monkeypatch.setattr(Harness, "score", watched)
    measure(editor, ["openbook_qa"], data=data, limit=1, batch_size=3)
    monkeypatch.setattr(
        editor.method, "info", type("Info", (), {"changes_weights": False}), raising=False
    )
    measure(editor, ["openbook_qa"], data=data, limit=1, batch_size=3)
    assert sizes == [3, 3, 1, 1]


def test_reports_are_json(edited, data):
    import json

    report = measure(edited, ["openbook_qa", "lambada_openai"], data=data, limit=3)
    found = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert {"scores", "sources", "shots", "interval", "versions", "seconds"} == found.keys()
    first = found["scores"][0]
    assert first["task"] == "openbook_qa"
    assert first["documents"] == 3
    assert first["interval"][0] <= first["difference"] <= first["interval"][1]
    assert first["difference"] == pytest.approx(first["after"] - first["before"])
    assert math.isfinite(found["seconds"])
