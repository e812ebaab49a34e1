import pytest
import torch

from ultraedit.history.contributions import contributions


def added(out, editor):
    """What the shifts come to, in float64, by module."""
    total = {}
    for shifts in contributions(out):
        for name, shift in shifts.items():
            delta = shift.dense().double()
            total[name] = total.get(name, 0) + delta
    return {
        name: delta.T if editor.workbench.targets[name].transposed else delta
        for name, delta in total.items()
    }


@pytest.mark.parametrize("undo", [None, {"edit": "e2.1"}, {"to": 2}])
def test_they_add_up_to_what_was_changed(told, undo):
    editor, out, _ = told(4)
    if undo:
        editor.undo(**undo)
    found = added(out, editor)
    assert found.keys() == editor.workbench.masters.keys()
    for name, master in editor.workbench.masters.items():
        change = master.master.double() - master.original.double()
        assert change.norm() > 0
        assert (found[name] - change).norm() < 1e-5 * change.norm()


def test_none_where_some_are_not_kept(told, checkpoint, tmp_path, turn_of):
    from ultraedit import Editor

    _, out, _ = told(5, 2, history=1)
    assert contributions(out) is None
    bare = Editor.from_pretrained(checkpoint, lr=1e-3, history="none", method="ultraedit")
    bare.edit(turn_of(1))
    bare.save(tmp_path / "bare")
    assert contributions(tmp_path / "bare") is None


def test_nothing_in_effect_is_nothing_added(told):
    editor, out, _ = told(2)
    editor.undo(to=0)
    assert list(contributions(out)) == []


def test_they_are_read_one_turn_at_a_time(told):
    _, out, _ = told(3)
    reading = contributions(out)
    assert {one.left.dtype for one in next(reading).values()} == {torch.float32}
    assert len(list(reading)) == 2
