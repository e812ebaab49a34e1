"""What an editor remembers of turns that were not saved yet."""

import pytest

from ultraedit import Editor, InputError
from ultraedit.history import pending
from ultraedit.storage import Layout, is_edited_model, open_journal


def kinds(out):
    with open_journal(out) as journal:
        return [entry.kind for entry in journal.entries()]


def test_save_writes_what_was_remembered_and_forgets_it(checkpoint, tmp_path, turn_of):
    editor = Editor.from_pretrained(checkpoint, lr=1e-3, author="ada")
    for turn in (1, 2):
        editor.edit(turn_of(turn))
    editor.save(tmp_path / "out")
    assert not editor.pending.changes
    editor.save(tmp_path / "out")
    assert kinds(tmp_path / "out") == ["start", "turn", "turn"]
    with open_journal(tmp_path / "out") as journal:
        entry = journal.entry(2)
        base = journal.head().about["base"]
    assert entry.author == "ada"
    assert [record.id for record in entry.records] == [f"e2.{n}" for n in range(4)]
    assert [record.learned for record in entry.records].count(None) == 0
    assert base["name"] == str(checkpoint)
    assert len(base["sha256"]) == 64


def test_without_a_journal_there_is_none_and_nothing_is_remembered(checkpoint, tmp_path, turn_of):
    editor = Editor.from_pretrained(checkpoint, lr=1e-3, journal=False)
    editor.edit(turn_of(1))
    assert not editor.pending.changes
    editor.save(tmp_path / "out")
    assert is_edited_model(tmp_path / "out")
    assert not Layout(tmp_path / "out").journal.exists()
    again = Editor.load(tmp_path / "out")
    again.edit(turn_of(2))
    again.save(tmp_path / "out")
    assert not Layout(tmp_path / "out").journal.exists()
    with pytest.raises(InputError, match="keeps no journal"):
        open_journal(tmp_path / "out")


def test_a_journal_that_begins_late_shows_a_gap(checkpoint, tmp_path, turn_of, state, same_state):
    out = tmp_path / "out"
    editor = Editor.from_pretrained(checkpoint, lr=1e-3)
    editor.edit(turn_of(1))
    editor.save(out, journal=False)
    again = Editor.load(out, options={"journal": True})
    again.edit(turn_of(2))
    again.save(out)
    after = state(again)
    again.edit(turn_of(3))
    again.save(out)
    assert kinds(out) == ["start", "gap", "turn", "turn"]
    with pytest.raises(InputError, match="cannot be rebuilt"):
        again.undo(to=1)
    assert again.undo(to=2).exact is True
    same_state(state(again), after)
    assert again.undo(to=0).turns == 0


@pytest.mark.parametrize("room", [0, 3000, 40_000])
def test_what_is_remembered_is_bounded_and_the_rest_becomes_a_gap(
    checkpoint, tmp_path, turn_of, monkeypatch, room, state, same_state
):
    monkeypatch.setattr(pending, "MOST_BYTES", room)
    editor = Editor.from_pretrained(checkpoint, lr=1e-3)
    for turn in range(1, 9):
        editor.edit(turn_of(turn))
        assert editor.pending._bytes <= room
    after = state(editor)
    out = tmp_path / "out"
    editor.save(out)
    with open_journal(out) as journal:
        entries = list(journal.entries())
    assert entries[-1].turns == 8
    assert entries[-1].edits == 32
    if room < 40_000:
        assert entries[1].kind == "gap"
    editor.edit(turn_of(9))
    editor.save(out)
    assert editor.undo(to=entries[-1].number).exact is True
    same_state(state(editor), after)


def test_another_folder_gets_the_whole_history(
    checkpoint, tmp_path, turn_of, told, state, same_state
):
    editor, first, states = told(3, 2)
    editor.edit(turn_of(4))
    editor.save(tmp_path / "second")
    assert kinds(tmp_path / "second") == ["start", "turn", "turn", "turn", "turn"]
    assert kinds(first) == ["start", "turn", "turn", "turn"]
    again = Editor.load(tmp_path / "second")
    for to in (1, 3, 0, 2):
        assert again.undo(to=to).exact is True
        same_state(state(again), states[to])
    editor.edit(turn_of(5))
    editor.save(first)
    assert kinds(first) == ["start", "turn", "turn", "turn", "gap", "turn"]


def test_options_of_the_journal_may_change(told, turn_of):
    _, out, _ = told(2)
    again = Editor.load(out, options={"author": "bob", "history": "1", "journal": True})
    again.edit(turn_of(3))
    again.save(out)
    with open_journal(out) as journal:
        assert journal.entry(3).author == "bob"
        assert journal.head().keep == 1
    assert Editor.load(out).pending.keep == 1
