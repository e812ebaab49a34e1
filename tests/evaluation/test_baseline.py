from contextlib import contextmanager
from dataclasses import replace

import pytest

from ultraedit import Case, Edit, Editor, Probe
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
    options = {"generate": True, "text": prose}
    plain = editor.evaluate(CASES, **options)
    first = Baseline(tmp_path / "unedited.jsonl")
    assert without_time(editor.evaluate(CASES, kept_baseline=first, **options)) == without_time(
        plain
    )
    first.write()

    @contextmanager
    def never():
        raise AssertionError("the unedited model is asked")
        yield

    monkeypatch.setattr(editor, "unedited", never)
    second = Baseline(tmp_path / "unedited.jsonl")
    again = editor.evaluate(CASES, kept_baseline=second, **options)
    assert without_time(again) == without_time(plain)
    written = (tmp_path / "unedited.jsonl").stat()
    second.write()
    assert (tmp_path / "unedited.jsonl").stat().st_mtime_ns == written.st_mtime_ns


def test_what_is_damaged_or_not_written_is_asked_again(editor, tmp_path):
    path = tmp_path / "unedited.jsonl"
    plain = editor.evaluate(CASES)
    editor.evaluate(CASES, kept_baseline=Baseline(path))
    assert not path.exists(), "an evaluation may not come to its end"
    path.write_text('{"own": [')
    baseline = Baseline(path)
    assert without_time(editor.evaluate(CASES, kept_baseline=baseline)) == without_time(plain)
    baseline.write()
    assert len(path.read_text().splitlines()) == 2
