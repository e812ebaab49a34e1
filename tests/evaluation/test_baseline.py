from contextlib import contextmanager
from dataclasses import replace

import pytest

from ultraedit import Case, Edit, Editor, InputError, Probe
from ultraedit.evaluation.baseline import Baseline

CASES = [
    Case(
        Edit(f"the capital of {name} is", "city"),
        (
            Probe("locality", "jazz guitar was", "born"),
            Probe("rephrase", f"what is {name}", "city"),
        ),
    )
    for name in ("france", "paris", "guitar")
]


@pytest.fixture
def editor(build, tokenizer, monkeypatch):
    monkeypatch.setattr("ultraedit.evaluation.evaluate.CHUNK", 2)
    editor = Editor(build("llama"), tokenizer, lr=0.05, method="ultraedit")
    editor.edit([case.edit for case in CASES])
    return editor


@pytest.fixture
def prose(tmp_path):
    path = tmp_path / "prose.txt"
    path.write_text("the capital of france is paris " * 20)
    return path


def without_time(report):
    return replace(report, seconds=0.0)


def test_a_second_evaluation_does_not_ask_the_unedited_model(editor, prose, tmp_path, monkeypatch):
    path, options = tmp_path / "unedited.jsonl", {"generate": True, "text": prose}
    plain = without_time(editor.evaluate(CASES, **options))
    with Baseline(path) as baseline:
        assert without_time(editor.evaluate(CASES, kept_baseline=baseline, **options)) == plain
        assert not path.exists()
    written = path.read_bytes()

    @contextmanager
    def never():
        raise AssertionError("the unedited model is asked")
        yield

    monkeypatch.setattr(editor, "unedited", never)
    with Baseline(path) as baseline:
        assert without_time(editor.evaluate(CASES, kept_baseline=baseline, **options)) == plain
    assert path.read_bytes() == written
    # Two of three cases are in the first chunk: a line each, and one of the text.
    assert len(written.splitlines()) == 3


def test_an_evaluation_that_does_not_end_leaves_nothing(editor, tmp_path):
    path = tmp_path / "unedited.jsonl"

    def interrupted(result):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Baseline(path) as baseline:
        editor.evaluate(CASES, kept_baseline=baseline, on_case=interrupted)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["", '{"own": [', '{"perplexity": 3.0}\n', "[]\n"])
def test_a_damaged_file_is_named(editor, tmp_path, content):
    path = tmp_path / "unedited.jsonl"
    path.write_text(content)
    with pytest.raises(InputError, match=r"unedited\.jsonl is damaged"), Baseline(path) as baseline:
        editor.evaluate(CASES, kept_baseline=baseline)
    assert path.read_text() == content
