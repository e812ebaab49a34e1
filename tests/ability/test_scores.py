"""What the harness returns, made by hand."""

import pytest

from ultraedit.ability.scores import scores


def sample(doc, filter_name="none", **metrics):
    return {"doc_id": doc, "doc_hash": f"h{doc}", "filter": filter_name, **metrics}


@pytest.fixture
def results():
    return {
        "results": {
            "one": {"alias": "one", "sample_len": 2, "acc,none": 0.5, "acc_stderr,none": "N/A",
                    "perplexity,none": 7.5},
            "two": {"alias": "two", "acc,none": 1.0, "f1,none": 0.25},
            "three": {"exact,strict": 0.0, "exact,loose": 1.0},
        },
        "samples": {
            "one": [sample(0, acc=0, perplexity=-1.0), sample(1, acc=1.0, perplexity=-3.0)],
            "two": [sample(0, acc=True, f1=(1, 0))],
            "three": [sample(0, "strict", exact=0), sample(0, "loose", exact=1)],
        },
        "higher_is_better": {"one": {"acc": True, "perplexity": False}},
    }  # fmt: skip


MEANS = {"one": {"acc"}, "two": {"acc", "f1"}, "three": {"exact"}}


def test_metrics_of_a_task(results):
    acc, perplexity = scores(results, MEANS, {"one": ["one"]})
    assert (acc.task, acc.metric, acc.filter, acc.value, acc.count) == ("one", "acc", "", 0.5, 2)
    assert acc.documents == {("one", 0, "h0"): 0.0, ("one", 1, "h1"): 1.0}
    assert acc.higher_is_better is True
    assert perplexity.value == 7.5
    assert perplexity.documents is None, "no mean over documents"
    assert perplexity.higher_is_better is False


def test_filters_are_apart(results):
    strict, loose = scores(results, MEANS, {"three": ["three"]})
    assert [(s.filter, s.value, s.count) for s in (strict, loose)] == [
        ("strict", 0.0, 1),
        ("loose", 1.0, 1),
    ]
    assert list(strict.documents.values()) == [0]


def test_what_is_no_number_is_not_paired(results):
    _, f1 = scores(results, MEANS, {"two": ["two"]})
    assert f1.documents is None


def test_a_group_is_all_its_documents(results):
    found = scores(results, MEANS, {"group": ["one", "two"], "three": ["three"]})
    group = found[0]
    assert (group.task, group.metric, group.count) == ("group", "acc", 3)
    assert group.value == pytest.approx(2 / 3)
    assert len(group.documents) == 3
    assert [s.task for s in found] == ["group", "one", "one", "two", "two", "three", "three"]
