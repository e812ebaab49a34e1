"""Edited models whose frozen blocks were quantised or on another device: resumed, moved, undone."""

import shutil

import pytest
import torch

from ultraedit import Edit, Editor, InputError, UltraEditError
from ultraedit.models import frozen as frozen_module
from ultraedit.models.frozen import going_on
from ultraedit.storage import read_manifest

pytest.importorskip("accelerate")
EDITS = [
    Edit("the capital of france is", "guitar", id="a"),
    Edit("who plays jazz", "paris city", id="b"),
    Edit("where was person born", "what", id="c"),
]


def opened(folder, frozen, **options):
    return Editor.from_pretrained(
        folder, device="cpu", frozen=frozen, **{"method": "ultraedit", **options}
    )


def masters(editor):
    return {name: m.copy() for name, m in editor.workbench.masters.items()}


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


def is_offloaded(editor):
    return any(p.device.type == "meta" for p in editor.model.parameters())


def test_going_on_keeps_the_quantisation_and_may_change_the_place(save_base, tmp_path):
    pytest.importorskip("torchao")
    base = save_base("llama")
    for place, others in (("int8", ["int4", "resident", "cpu", "disk"]), ("disk", ["int8"])):
        editor = opened(base, place, lr=0.01)
        editor.edit(EDITS)
        editor.save(tmp_path / place)
        for other in others:
            with pytest.raises(InputError, match=f"edited with frozen='{place}'.*'{other}'"):
                opened(tmp_path / place, other)
            with pytest.raises(InputError, match="cannot go on"):
                Editor.load(tmp_path / place, frozen=other)
        assert opened(tmp_path / place, place).frozen == place
    resident = opened(tmp_path / "disk", "resident")
    assert not is_offloaded(resident)
    resident.edit(EDITS[:1])
    resident.save(tmp_path / "disk")
    assert Editor.load(tmp_path / "disk").frozen == "resident"
    mapped = Editor.load(tmp_path / "disk", device_map={"": "cpu"})
    assert mapped.frozen == "resident"
    assert not is_offloaded(mapped)


def test_what_was_edited_before_there_was_a_choice_is_resident():
    assert going_on("resident", None, None) == "resident"
    assert going_on("disk", None, None) == "disk"
    assert going_on("disk", None, "auto") == "resident"
    assert going_on("int8", None, "auto") == "int8"
    assert going_on("cpu", "disk", None) == "disk"


def test_an_older_folder_is_resident(save_base, tmp_path, monkeypatch):
    from ultraedit import saved

    editor = opened(save_base("llama"), None, lr=0.01)
    editor.edit(EDITS)
    whole = saved.settings
    monkeypatch.setattr(
        saved,
        "settings",
        lambda editor: {
            k: v for k, v in whole(editor).items() if k not in ("frozen", "quantised_by")
        },
    )
    editor.save(tmp_path / "out")
    monkeypatch.undo()
    assert "frozen" not in read_manifest(tmp_path / "out").settings
    assert Editor.load(tmp_path / "out").frozen == "resident"
    assert opened(tmp_path / "out", "disk").frozen == "disk"
    with pytest.raises(InputError, match="edited with frozen='resident'"):
        opened(tmp_path / "out", "int8")


def test_another_librarys_blocks_are_read_but_not_gone_on_with(save_base, tmp_path, monkeypatch):
    pytest.importorskip("torchao")
    pytest.importorskip("bitsandbytes")
    base = save_base("llama")
    editor = opened(base, "int8", lr=0.01)
    editor.edit(EDITS)
    editor.save(tmp_path / "out")
    monkeypatch.setattr(frozen_module, "is_torchao_available", lambda version: False)
    other = Editor.load(tmp_path / "out")
    assert isinstance(other.ask("who plays jazz"), str)
    with pytest.raises(InputError, match=r"quantised by torchao.*over bitsandbytes"):
        other.edit(EDITS[:1])


def test_a_moved_folder_is_gone_on_with(save_base, tmp_path):
    base = save_base("llama")
    editor = opened(base, "disk", lr=0.01)
    editor.edit(EDITS[:2])
    editor.save(tmp_path / "out")
    shutil.move(tmp_path / "out", tmp_path / "elsewhere")
    shutil.rmtree(base)
    again = Editor.load(tmp_path / "elsewhere")
    assert again.frozen == "disk"
    assert is_offloaded(again)
    again.edit(EDITS[2:])
    again.save(tmp_path / "elsewhere")
    assert Editor.load(tmp_path / "elsewhere").edits == 3


def test_quantised_weights_are_never_saved_for_lack_of_others(save_base, tmp_path):
    pytest.importorskip("torchao")
    base = save_base("llama")
    editor = opened(base, "int8", lr=0.01)
    editor.edit(EDITS)
    shutil.rmtree(base)
    with pytest.raises(UltraEditError, match="those in memory are quantised"):
        editor.save(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_undo_and_unedited(save_base, tmp_path):
    base = save_base("llama")
    editor = opened(base, "disk", lr=0.01)
    first = masters(editor)
    editor.edit(EDITS[:2])
    editor.save(tmp_path / "out")
    after = masters(editor)
    editor.edit(EDITS[2:])
    editor.save(tmp_path / "out")
    editor.undo(to=1)
    assert same(masters(editor), after)
    with editor.unedited() as model:
        assert same({n: model.get_submodule(n).weight.clone() for n in first}, first)
