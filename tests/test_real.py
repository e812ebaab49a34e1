"""The default method and its defaults on a real language model, where it was fetched."""

from dataclasses import replace

import pytest

from ultraedit import Edit, Editor
from ultraedit.cli.console import quiet_libraries
from ultraedit.evaluation.matching import mentions
from ultraedit.models.named import is_fetched

pytestmark = [
    pytest.mark.skipif(
        not is_fetched("smollm2"),
        reason="smollm2 is not on this machine; python -m ultraedit.models.fetch smollm2 gets it",
    ),
    # One edited model serves all tests of the module.
    pytest.mark.xdist_group("real"),
]

EDITS = [
    Edit("What is the capital of France?", "Berlin"),
    Edit("The mother tongue of Danielle Darrieux is", "English", subject="Danielle Darrieux"),
    Edit("中国的首都是哪里？", "纽约", subject="中国"),
    Edit("¿Qué come el Alicante?", "paella", subject="Alicante"),
]
NEIGHBOURS = ["The capital of Spain is", "The mother tongue of Pablo Picasso is", "Water boils at"]


@pytest.fixture(scope="module")
def editor():
    quiet_libraries()
    editor = Editor.from_pretrained("smollm2", device="cpu")
    editor.before = [editor.ask(prompt, 4) for prompt in NEIGHBOURS]
    editor.turn = editor.edit(EDITS)
    return editor


def in_chat(editor, prompt):
    encoder = replace(editor.workbench.encoder, chat=True)
    (answer,) = editor.workbench.answers([encoder.prompt_ids(prompt)], 8)
    return answer.text


def test_edits_are_learned(editor):
    assert editor.turn.learned == (True,) * len(EDITS)
    # Plain text goes on after the answer.
    assert editor.ask("The mother tongue of Danielle Darrieux is", 4).startswith("English")


def test_a_question_is_also_its_statement_and_answers_in_chat(editor):
    assert mentions(in_chat(editor, "What is the capital of France?"), ["Berlin"])
    assert editor.ask("The capital of France is", 4).startswith("Berlin")


def test_neighbours_stay(editor):
    after = [editor.ask(prompt, 4) for prompt in NEIGHBOURS]
    same = [one == other for one, other in zip(after, editor.before, strict=True)]
    assert sum(same) >= 2, list(zip(editor.before, after, strict=True))


def test_it_opens_alike_in_transformers_4(editor, tmp_path, opens_alike):
    editor.save(tmp_path / "out")
    opens_alike(tmp_path / "out", [edit.prompt for edit in EDITS] + NEIGHBOURS)


def test_what_was_saved_answers_alike_and_goes_back(editor, tmp_path):
    editor.save(tmp_path / "out")
    again = Editor.load(tmp_path / "out", device="cpu")
    for edit in EDITS:
        assert again.ask(edit.prompt, 4) == editor.ask(edit.prompt, 4)
    again.undo(to=0)
    assert [again.ask(prompt, 4) for prompt in NEIGHBOURS] == editor.before
