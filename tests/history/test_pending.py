"""What an editor remembers of turns that were not saved yet."""

import shutil

import pytest
import torch

from ultraedit import Edit, Editor, InputError, UltraEditError, saved
from ultraedit.history import pending
from ultraedit.history.verify import verify
from ultraedit.storage import Layout, open_journal, read
from ultraedit.storage.commit import Commit


def kinds(out):
    with open_journal(out) as journal:
        return [entry.kind for entry in journal.entries()]


def test_save_writes_what_was_remembered_and_forgets_it(checkpoint, tmp_path, turn_of):
    editor = Editor.from_pretrained(checkpoint, lr=1e-3, author="ada", method="ultraedit")
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


def test_without_history_edits_are_named_and_no_shift_is_kept(checkpoint, tmp_path, turn_of):
    out = tmp_path / "out"
    editor = Editor.from_pretrained(checkpoint, lr=1e-3, history="none", method="ultraedit")
    for turn in (1, 2):
        editor.edit(turn_of(turn))
        editor.save(out)
        editor = Editor.load(out)
    assert kinds(out) == ["start", "turn", "turn"]
    assert [path.name for path in Layout(out).history.iterdir()] == [
        "00000000-snapshot.safetensors"
    ]
    with pytest.raises(InputError, match="cannot be rebuilt"):
        editor.undo(to=1)
    assert editor.undo(to=0).turns == 0


def test_a_journal_that_begins_late_shows_a_gap(
    checkpoint, tmp_path, turn_of, state, same_state, without_journal
):
    out = tmp_path / "out"
    editor = Editor.from_pretrained(checkpoint, lr=1e-3, history="none", method="ultraedit")
    editor.edit(turn_of(1))
    editor.save(out)
    without_journal(out)
    again = Editor.load(out, options={"history": "full"})
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
    editor = Editor.from_pretrained(checkpoint, lr=1e-3, method="ultraedit")
    for turn in range(1, 9):
        editor.edit(turn_of(turn))
        assert editor.pending._bytes <= room or len(editor.pending.changes) == 1
        assert editor.pending.changes[-1].shifts is not None
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
    again = Editor.load(out, options={"author": "bob", "history": "1"})
    again.edit(turn_of(3))
    again.save(out)
    with open_journal(out) as journal:
        assert journal.entry(3).author == "bob"
        assert journal.head().keep == 1
    assert Editor.load(out).pending.keep == 1


def test_an_undo_is_not_lost_between_two_folders(checkpoint, tmp_path, turn_of, state, same_state):
    editor = Editor.from_pretrained(checkpoint, lr=1e-3, method="ultraedit")
    editor.edit(turn_of(1))
    editor.save(tmp_path / "a")
    editor.save(tmp_path / "b")
    editor.undo(edit="e1.1")
    editor.save(tmp_path / "a")
    assert kinds(tmp_path / "a") == ["start", "turn", "gap"]
    assert kinds(tmp_path / "b") == ["start", "turn", "undo-edit"]
    for name in ("a", "b"):
        again = Editor.load(tmp_path / name)
        same_state(state(again), state(editor))
        head = 2
        again.undo(to=1)
        assert again.undo(to=head).exact is not False
        same_state(state(again), state(editor))


def test_a_folder_that_is_gone_is_begun_with_a_gap(
    checkpoint, tmp_path, turn_of, state, same_state
):
    editor, out = Editor.from_pretrained(checkpoint, lr=1e-3, method="ultraedit"), tmp_path / "out"
    editor.edit(turn_of(1))
    editor.save(out)
    shutil.rmtree(out)
    editor.edit(turn_of(2))
    editor.save(out)
    assert kinds(out) == ["start", "gap", "turn"]
    after = state(editor)
    shutil.rmtree(out)
    editor.save(out)
    assert kinds(out) == ["start", "gap"]
    editor.edit(turn_of(3))
    editor.save(out)
    assert editor.undo(to=1).turns == 2
    same_state(state(editor), after)


def test_a_turn_written_while_the_model_is_read_is_not_overwritten(told, turn_of, monkeypatch):
    other, out, _ = told(2)
    plain = saved.load_model

    def slow(*arguments, **options):
        model = plain(*arguments, **options)
        other.edit(turn_of(3))
        other.save(out)
        return model

    monkeypatch.setattr(saved, "load_model", slow)
    editor = Editor.load(out)
    monkeypatch.undo()
    editor.edit(turn_of(4))
    with pytest.raises(UltraEditError, match="changed by another process"):
        editor.save(out)
    assert kinds(out) == ["start", "turn", "turn", "turn"]


def test_an_interrupt_after_the_commit_is_a_save(told, turn_of, monkeypatch):
    editor, out, _ = told(1)
    plain = Commit.make

    def interrupted(self):
        plain(self)
        raise KeyboardInterrupt

    editor.edit(turn_of(2))
    with monkeypatch.context() as patch:
        patch.setattr(Commit, "make", interrupted)
        with pytest.raises(KeyboardInterrupt):
            editor.save(out)
    assert kinds(out) == ["start", "turn", "turn"]
    editor.edit(turn_of(3))
    editor.save(out)
    assert kinds(out) == ["start", "turn", "turn", "turn"]


def test_another_dtype_may_look_but_not_go_on(told, turn_of, tmp_path):
    _, out, _ = told(1)
    recorded = read(out).originals
    dtype = {d.dtype for d in recorded.values()}.pop()
    other = "float16" if dtype is torch.bfloat16 else "bfloat16"
    editor = Editor.load(out, dtype=other)
    assert editor.ask("paris in paris is") is not None
    with pytest.raises(InputError, match="cannot go on in"):
        editor.edit(turn_of(2))
    with pytest.raises(InputError, match="cannot go on in"):
        editor.save(tmp_path / "elsewhere")
    assert {d.dtype for d in read(out).originals.values()} == {dtype}


def test_a_history_that_a_killed_fork_left_is_not_taken_for_the_next_ones(
    checkpoint, tmp_path, turn_of, monkeypatch
):
    forks = tmp_path / "fork"
    for name in ("first", "second"):
        editor = Editor.from_pretrained(checkpoint, lr=1e-3, method="ultraedit")
        editor.edit(turn_of(1 if name == "first" else 2))
        editor.save(tmp_path / name)
        fork = Editor.load(tmp_path / name)
        if name == "first":
            with monkeypatch.context() as patch:
                patch.setattr(Commit, "make", lambda self: 1 / 0)
                patch.setattr("ultraedit.storage.folder._tidy", lambda *arguments: None)
                with pytest.raises(ZeroDivisionError):
                    fork.save(forks)
        else:
            fork.save(forks)
    assert verify(forks) > 1
    assert Editor.load(forks).undo(to=0).exact is True


def test_undo_inside_unedited_is_refused(told):
    editor, _, _ = told(2)
    with editor.unedited(), pytest.raises(InputError, match="unedited"):
        editor.undo(to=1)
    assert editor.undo(to=1).exact is True


def test_unsaved_turns_count_without_history_too(told, turn_of):
    _, out, _ = told(1)
    editor = Editor.load(out, options={"history": "none"})
    editor.edit(turn_of(2))
    with pytest.raises(InputError, match="save"):
        editor.undo(to=0)


def test_a_folder_is_the_same_from_anywhere(told, turn_of, monkeypatch, tmp_path):
    _, out, _ = told(1)
    monkeypatch.chdir(out.parent)
    editor = Editor.load(out.name)
    monkeypatch.chdir("/")
    editor.edit(turn_of(2))
    editor.save(out)
    assert kinds(out) == ["start", "turn", "turn"]


@pytest.mark.parametrize("wrong", [{"id": 7}, {"id": "\udcff"}, {"subject": "\udcff"}])
def test_what_could_not_be_written_is_no_edit(wrong):
    with pytest.raises(InputError):
        Edit("a", "b", **wrong)


def test_an_author_is_text(checkpoint):
    with pytest.raises(InputError, match="author"):
        Editor.from_pretrained(checkpoint, author="\udcff", method="ultraedit")
