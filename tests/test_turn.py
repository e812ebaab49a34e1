import pytest
import torch

from ultraedit import Edit, Editor, TurnRefusedError

EDITS = [Edit("the capital of france is", "jazz guitar"), Edit("who plays in", "paris")]


def editor_of(build, tokenizer, **options):
    return Editor(build("llama"), tokenizer, lr=1e-3, **{"method": "ultraedit", **options})


def masters(editor):
    return {name: master.copy() for name, master in editor.workbench.masters.items()}


def test_an_unchecked_turn_is_the_same_turn(build, tokenizer, tmp_path):
    checked, unchecked = (
        editor_of(build, tokenizer, check_learned=check) for check in (True, False)
    )
    assert len(checked.edit(EDITS).learned) == 2
    assert unchecked.edit(EDITS).learned == ()
    for name, master in masters(checked).items():
        assert torch.equal(masters(unchecked)[name], master)
    unchecked.save(tmp_path)
    assert Editor.load(tmp_path, options={"check_learned": False}).check_learned is False
    assert Editor.load(tmp_path).check_learned is True


def test_a_full_device_is_a_refused_turn_that_changes_nothing(build, tokenizer, monkeypatch):
    editor = editor_of(build, tokenizer)
    editor.edit(EDITS)
    before, state = masters(editor), editor.method.state_dict()

    def full(*args):
        raise torch.OutOfMemoryError("no more")

    monkeypatch.setattr(editor.workbench, "score", full)
    with pytest.raises(TurnRefusedError, match="fewer batch_tokens"):
        editor.edit(EDITS)
    monkeypatch.setattr(editor.workbench, "look_ahead", full)
    with pytest.raises(TurnRefusedError, match="fewer batch_tokens"):
        editor.look_ahead(EDITS)
    assert all(torch.equal(masters(editor)[name], master) for name, master in before.items())
    assert all(torch.equal(editor.method.state_dict()[key], state[key]) for key in state)
    assert editor.turns == 1


def test_edits_looked_ahead_to_are_encoded_once(build, tokenizer, monkeypatch):
    editor = editor_of(build, tokenizer)
    plain = editor_of(build, tokenizer)
    editor.look_ahead(EDITS)
    calls = []
    monkeypatch.setattr(type(editor.workbench.encoder), "encode", lambda *a: calls.append(a))
    editor.edit(EDITS)
    monkeypatch.undo()
    assert not calls
    plain.edit(EDITS)
    for name, master in masters(plain).items():
        torch.testing.assert_close(masters(editor)[name], master, rtol=1e-5, atol=1e-7)
