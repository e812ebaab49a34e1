from dataclasses import replace

import pytest
import torch

from ultraedit import Edit, Editor, InputError
from ultraedit.history import neighbours as module
from ultraedit.history.neighbours import neighbours
from ultraedit.storage import Layout, open_journal, read_factors


def test_its_turn_comes_whole_and_others_by_likeness_of_their_keys(told, monkeypatch):
    editor, out, _ = told(4)
    monkeypatch.setattr(module, "MOST", 5)
    found = neighbours(out, "e2.1", None)
    assert found[0] == (2, found[0][1])
    assert found[0][1].id == "e2.1"
    assert [record.id for _, record in found[1:4]] == ["e2.0", "e2.2", "e2.3"]
    first = next(iter(editor.workbench.targets))
    keys = {}
    with open_journal(out) as journal:
        for turn in (1, 2, 3, 4):
            entry = journal.entry(turn)
            shift = read_factors(Layout(out).history, entry.factors)[0][0][first]
            unit = torch.nn.functional.normalize(shift.left.double())
            for place, record in enumerate(entry.records):
                keys[record.id] = unit[shift.edit_index == place]
    likeness = {
        name: float((held @ keys["e2.1"].T).max())
        for name, held in keys.items()
        if not name.startswith("e2")
    }
    expected = sorted(likeness, key=likeness.get, reverse=True)[:5]
    assert {record.id for _, record in found[4:]} == set(expected)


def test_edits_taken_out_are_nobodys_neighbours(told):
    editor, out, _ = told(3)
    editor.undo(edit="e2.0")
    editor.undo(edit="e3.1")
    ids = [record.id for _, record in neighbours(out, "e2.1", None)]
    assert "e2.0" not in ids
    assert "e3.1" not in ids
    editor.undo(to=2)
    ids = [record.id for _, record in neighbours(out, "e2.1", None)]
    assert "e3.0" not in ids
    assert "e2.0" in ids
    with pytest.raises(InputError, match="not in effect"):
        neighbours(out, "e3.0", None)


def test_the_same_prompt_in_a_later_turn_is_the_first_of_the_others(told):
    editor, out, _ = told(2)
    again = Edit("paris in paris is", "jazz", id="first")
    editor.edit([again])
    editor.edit([Edit("born in jazz is", "city", id="x"), Edit(again.prompt, "who", id="second")])
    editor.save(out)
    found = neighbours(out, "first", None)
    assert found[1][1].id == "second"


def test_an_edit_that_was_known_before_its_turn_wrote_nothing_and_has_its_turn(
    checkpoint, tmp_path
):
    """A method that leaves out what is learned, and whose rows partly belong to no edit."""
    editor = Editor.from_pretrained(
        checkpoint, method="anchored", passes=60, threshold=0.05, contexts=0
    )
    known, new = Edit("who plays jazz", "paris", id="known"), Edit("who is", "city", id="new")
    editor.edit([Edit(known.prompt, "paris", id="first")])
    # So that what the new one does to the known one does not count.
    editor.method.config = replace(editor.method.config, threshold=0.01)
    editor.edit([known, new])
    editor.edit([known])
    editor.save(tmp_path / "out")
    kept = weights(editor)
    assert [record.id for _, record in neighbours(tmp_path / "out", "known", 2)] == ["known", "new"]
    assert "first" in [record.id for _, record in neighbours(tmp_path / "out", "new", None)]
    editor.undo(edit="known", turn=2)
    assert all(torch.equal(kept[name], weight) for name, weight in weights(editor).items())
    with pytest.raises(InputError, match="turn 3 changed no weights"):
        editor.undo(edit="known", turn=3)


def weights(editor):
    return {name: master.master.clone() for name, master in editor.workbench.masters.items()}
