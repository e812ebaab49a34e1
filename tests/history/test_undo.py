import dataclasses

import pytest
import torch

from ultraedit import Edit, Editor, InputError, UltraEditError
from ultraedit.history.undo import undo_to
from ultraedit.linalg.shift import Dense
from ultraedit.methods.base import Method, MethodInfo
from ultraedit.storage import KEEP_ALL, Layout, lock, open_journal, read


@pytest.mark.parametrize("snapshot_every", [1, 3, 50])
def test_every_state_comes_back_bit_for_bit(told, state, same_state, snapshot_every):
    editor, out, states = told(6, snapshot_every)
    for to in (4, 1, 6, 0, 5, 2, 3):
        undone = editor.undo(to=to)
        assert undone.exact is True
        assert (undone.to, undone.turns, undone.edits) == (to, to, 4 * to)
        same_state(state(editor), states[to])
        same_state(state(Editor.load(out)), states[to])
    with open_journal(out) as journal:
        kinds = [entry.kind for entry in journal.entries()]
    assert kinds == ["start"] + ["turn"] * 6 + ["undo"] * 7


def test_going_on_after_an_undo_is_as_if_the_later_turns_had_never_been(
    told, turn_of, state, same_state
):
    _, out, states = told(5)
    undo_to(out, 3)
    again = Editor.load(out)
    for turn in (4, 5):
        again.edit(turn_of(turn))
        again.save(out)
        same_state(state(again), states[turn])
    # Turns of the first life stay in the journal and can come back too.
    assert again.undo(to=5).exact is True
    same_state(state(again), states[5])
    assert again.undo(to=7).exact is True
    same_state(state(again), states[4])


def test_several_turns_in_one_save_can_be_taken_back_one_by_one(
    checkpoint, tmp_path, turn_of, state, same_state
):
    editor = Editor.from_pretrained(checkpoint, lr=1e-3, method="ultraedit")
    states = [state(editor)]
    for turn in range(1, 5):
        editor.edit(turn_of(turn))
        states.append(state(editor))
    editor.save(tmp_path / "out")
    for to in (2, 4, 3, 1):
        undone = editor.undo(to=to)
        # Only the last of them was ever written to disk, so only it has checksums.
        assert undone.exact is (True if to == 4 else None)
        same_state(state(editor), states[to])


def test_one_edit_is_subtracted_and_all_else_stays(told, state):
    editor, out, _ = told(3)
    before = state(editor)
    with open_journal(out) as journal:
        entry = journal.entry(2)
    from ultraedit.storage import read_factors

    (shifts,), _ = read_factors(Layout(out).history, entry.factors)
    undone = editor.undo(edit="e2.1")
    assert (undone.to, undone.turns, undone.edits) == (2, 3, 11)
    for name, shift in shifts.items():
        rows = shift.edit_index == 1
        part = shift.left[rows].double().T @ shift.right[rows].double()
        assert part.abs().max() > 0
        target = editor.workbench.targets[name]
        expected = before["masters"][name].double() - (part.T if target.transposed else part)
        found = editor.workbench.masters[name].master
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
        held = editor.workbench.masters[name]
        assert torch.equal(held.parameter, found.to(held.stored).to(held.parameter.dtype))
    after = state(editor)
    assert all(torch.equal(after["state"][k], v) for k, v in before["state"].items())
    assert undone.removed.edit.id == "e2.1"
    assert {one.edit.id for one in undone.neighbours} >= {"e2.0", "e2.2", "e2.3"}
    assert {one.turn for one in undone.neighbours} == {1, 2, 3}
    with pytest.raises(InputError, match="not in effect"):
        editor.undo(edit="e2.1")
    # The undo is an entry like any other: back before it, and forward to it again.
    assert editor.undo(to=3).exact is True
    assert editor.undo(to=4).exact is True
    with pytest.raises(InputError, match="not in effect"):
        editor.undo(edit="e2.1")


def test_all_edits_of_a_turn_taken_out_one_by_one_are_the_turn_taken_back(told):
    editor, _, states = told(2)
    for place in range(4):
        editor.undo(edit=f"e2.{place}")
    for name, master in editor.workbench.masters.items():
        before, shift = states[1]["masters"][name], states[2]["masters"][name]
        scale = (shift - before).norm()
        assert (master.master - before).norm() < 1e-3 * scale


def test_an_id_used_twice_means_the_newest_unless_the_turn_is_named(told, turn_of):
    editor, out, _ = told(2)
    again = dataclasses.replace(turn_of(3, 1)[0], id="e1.0")
    editor.edit([again])
    editor.save(out)
    assert editor.undo(edit="e1.0").to == 3
    assert editor.undo(edit="e1.0").to == 1
    with pytest.raises(InputError, match="not in effect"):
        editor.undo(edit="e1.0")
    editor.undo(to=3)
    assert editor.undo(edit="e1.0", turn=1).to == 1
    with pytest.raises(InputError, match="no edit with id nobody"):
        editor.undo(edit="nobody")


def test_edits_without_an_id_get_one_from_turn_and_place(checkpoint, tmp_path):
    editor = Editor.from_pretrained(checkpoint, lr=1e-3, method="ultraedit")
    editor.edit([Edit("paris is", "in"), Edit("jazz is", "city")])
    editor.save(tmp_path / "out")
    assert editor.undo(edit="1-2").removed.edit.prompt == "jazz is"


@pytest.mark.parametrize("wrong", [{}, {"to": 1, "edit": "e1.0"}, {"to": -1}, {"to": 7}])
def test_what_cannot_be_undone_is_said(told, wrong):
    editor, _, _ = told(2)
    with pytest.raises(InputError):
        editor.undo(**wrong)


def test_unsaved_turns_and_the_present_cannot_be_undone(checkpoint, told, turn_of):
    editor, _, _ = told(2)
    with pytest.raises(InputError, match="already"):
        editor.undo(to=2)
    editor.edit(turn_of(3))
    with pytest.raises(InputError, match="save"):
        editor.undo(to=1)
    with pytest.raises(InputError, match="save"):
        Editor.from_pretrained(checkpoint, method="ultraedit").undo(to=0)


def test_a_folder_that_another_editor_changed_is_not_overwritten(told, turn_of):
    editor, out, _ = told(3)
    undo_to(out, 1)
    with pytest.raises(InputError, match="changed since"):
        editor.undo(to=2)
    editor.edit(turn_of(4))
    before = read(out)
    with pytest.raises(UltraEditError, match="changed by another process"):
        editor.save(out)
    assert read(out).version == before.version == 1


def test_undo_waits_for_nobody(told):
    editor, out, _ = told(2)
    with lock(out), pytest.raises(UltraEditError, match="in use"):
        editor.undo(to=1)


def test_a_history_of_a_few_turns_keeps_just_what_they_need(told, state, same_state):
    editor, out, states = told(9, 2, history=3)
    held = sorted(p.name for p in Layout(out).history.iterdir())
    assert len([name for name in held if "factors" in name]) <= 3 + 2
    with pytest.raises(InputError, match="not kept"):
        editor.undo(edit="e1.0")
    for to in (7, 6, 9, 8, 0):
        assert editor.undo(to=to).exact is True
        same_state(state(editor), states[to])
    with pytest.raises(InputError, match=r"cannot be rebuilt.*these can"):
        editor.undo(to=2)


def test_no_history_still_keeps_the_log_and_the_way_back_to_the_start(told, state, same_state):
    editor, out, states = told(3, history="none")
    assert not list(Layout(out).history.glob("*factors*"))
    with open_journal(out) as journal:
        assert [len(entry.records) for entry in journal.entries()] == [0, 4, 4, 4]
    with pytest.raises(InputError, match="cannot be rebuilt"):
        editor.undo(to=2)
    assert editor.undo(to=0).exact is True
    same_state(state(editor), states[0])


def test_a_history_can_begin_again_after_a_pause(told, turn_of, state, same_state):
    editor, out, _ = told(2, history="none")
    editor.pending.keep = KEEP_ALL
    states = {}
    for turn in (3, 4, 5):
        editor.edit(turn_of(turn))
        editor.save(out)
        states[turn] = state(editor)
    for to in (4, 3, 5):
        assert editor.undo(to=to).exact is True
        same_state(state(editor), states[to])


class HalfAndHalf(Method):
    """Two passes, one of them dense, and a state too large to keep whole for every turn."""

    info = MethodInfo("half-and-half", "for tests", "none")

    @dataclasses.dataclass(frozen=True)
    class Config:
        scale: float = 1e-3

    def __init__(self, config=None):
        super().__init__(config)
        self.seen = torch.zeros(1)

    def passes(self, workbench, edits, texts):
        rows = workbench.capture(texts)
        total = torch.zeros(1)
        for name, one in rows.items():
            delta = self.config.scale * (one.inputs.T @ one.gradients)
            total = total + delta.sum()
            yield {name: Dense(delta)}
        self.seen = self.seen + total

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state):
        self.seen = state["seen"] if state else torch.zeros(1)

    def record(self):
        return {}

    def replay(self, record, passes):
        assert not record
        total = torch.zeros(1)
        for shifts in passes:
            for shift in shifts.values():
                total = total + shift.delta.sum()
        self.seen = self.seen + total


def test_dense_shifts_of_several_passes_and_a_replayed_state(
    checkpoint, tmp_path, monkeypatch, turn_of, state, same_state
):
    from ultraedit.history import rebuild as module

    monkeypatch.setattr(module, "method_class", lambda name: HalfAndHalf)
    editor = Editor.from_pretrained(checkpoint, method=HalfAndHalf())
    states = [state(editor)]
    for turn in range(1, 5):
        editor.edit(turn_of(turn))
        editor.save(tmp_path / "out")
        states.append(state(editor))
    for to in (2, 4, 0, 3):
        assert editor.undo(to=to).exact is True
        same_state(state(editor), states[to])
    with pytest.raises(InputError, match="as a whole"):
        editor.undo(edit="e1.0")


class SideMemory(HalfAndHalf):
    """Changes no weights."""

    info = MethodInfo("side", "for tests", "none", changes_weights=False, exports=())

    def passes(self, workbench, edits, texts):
        self.seen = self.seen + len(edits)
        yield from ()

    def record(self):
        return self.state_dict()

    def replay(self, record, passes):
        self.load_state_dict(record)


def test_a_side_memory_goes_back_as_a_whole_and_says_that_it_cannot_in_part(
    checkpoint, tmp_path, registered, turn_of
):
    registered(SideMemory)
    editor = Editor.from_pretrained(checkpoint, method=SideMemory())
    for turn in range(1, 4):
        editor.edit(turn_of(turn))
        editor.save(tmp_path / "out")
    assert editor.undo(to=2).exact is True
    assert float(editor.method.seen) == 8
    with pytest.raises(InputError, match="changed no weights"):
        editor.undo(edit="e1.0")
