"""A plain checkpoint is OUT to every loader, and owes nothing to it or to us."""

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import save_file

from ultraedit import Edit, Editor
from ultraedit.errors import InputError
from ultraedit.export import checkpoint
from ultraedit.export.plain import finish_shards
from ultraedit.methods.base import MethodInfo
from ultraedit.methods.ultraedit.method import UltraEdit
from ultraedit.storage.config_files import copy_config_files
from ultraedit.storage.filerecord import FileRecord


def test_it_serves_what_the_edited_model_serves(edited, tmp_path, assert_serves):
    written = checkpoint.write(edited.out, tmp_path / "plain")
    shutil.rmtree(edited.out)
    assert_serves(tmp_path / "plain", edited.served)
    assert (written.method, written.turns, written.edits) == ("ultraedit", 2, 3)
    assert set(written.files) == {p.name for p in (tmp_path / "plain").glob("*.safetensors")}
    config = json.loads((tmp_path / "plain" / "config.json").read_text())
    assert config["dtype"] == str(edited.editor.model.dtype).removeprefix("torch.")


def test_weight_files_are_links_and_small_files_are_not(edit_model, tmp_path):
    edited = edit_model()
    checkpoint.write(edited.out, tmp_path / "plain")
    ours = {path.stat().st_ino for path in edited.out.iterdir()}
    for path in (tmp_path / "plain").iterdir():
        assert (path.stat().st_ino in ours) == (path.suffix == ".safetensors"), path


def test_where_links_are_refused_files_are_copied(edit_model, tmp_path, monkeypatch, assert_serves):
    def refuse(*_):
        raise OSError("no links here")

    edited = edit_model()
    monkeypatch.setattr(os, "link", refuse)
    checkpoint.write(edited.out, tmp_path / "plain")
    monkeypatch.undo()
    ours = {path.stat().st_ino for path in edited.out.iterdir()}
    assert not ours & {path.stat().st_ino for path in (tmp_path / "plain").iterdir()}
    assert_serves(tmp_path / "plain", edited.served)


def test_everything_but_weights_and_what_is_ours_comes_along(edit_model, tmp_path):
    edited = edit_model()
    along = {
        "preprocessor_config.json": "{}", "modeling_own.py": "x = 1", "part/deeper.py": "y = 2",
        "additional_chat_templates/tool.jinja": "{{ x }}", "LICENSE": "free", "tokenizer.model": "",
        "README.md": "its licence",
    }  # fmt: skip
    behind = {
        "pytorch_model.bin": "", "WARNING.md": "of another method", ".gitattributes": "",
        ".tmp-half": "", "optimizer.pt": "", "runs/log.txt": "", "runs/.git/hook.py": "",
        "adapter_config.json": "{}", "ultraedit/own.py": "", "extra.safetensors.index.json": "{}",
    }  # fmt: skip
    for name, text in {**along, **behind}.items():
        (edited.out / name).parent.mkdir(parents=True, exist_ok=True)
        (edited.out / name).write_text(text)
    checkpoint.write(edited.out, tmp_path / "plain")
    for name, text in along.items():
        assert (tmp_path / "plain" / name).read_text() == text
    for name in behind:
        assert not (tmp_path / "plain" / name).exists(), name
    ours = {p.name for p in edited.out.iterdir() if p.suffix in (".json", ".jinja")}
    theirs = {p.name for p in (tmp_path / "plain").iterdir()}
    assert {"config.json", "generation_config.json", "tokenizer.json"} <= theirs
    assert ours - theirs == {"adapter_config.json", "extra.safetensors.index.json"}


def test_the_version_that_counts_is_exported_not_the_indexs(edit_model, tmp_path, assert_serves):
    edited = edit_model()
    index = edited.out / "model.safetensors.index.json"
    text = index.read_text()
    weight_map = json.loads(text)["weight_map"]
    some = next(name for name in weight_map.values() if name.startswith("model-edited"))
    shutil.copy(edited.out / some, edited.out / "model-edited-v00000009.safetensors")
    index.write_text(text.replace(some, "model-edited-v00000009.safetensors"))
    (edited.out / "model-edited-v00000009.safetensors").write_bytes(b"half")
    checkpoint.write(edited.out, tmp_path / "plain")
    assert_serves(tmp_path / "plain", edited.served)


def test_a_bfloat16_model_of_float32_files_is_loaded_in_bfloat16(
    edit_model, tmp_path, assert_serves
):
    base = edit_model().base
    editor = Editor.from_pretrained(base, lr=0.05, dtype="bfloat16", method="ultraedit")
    editor.edit([Edit("who plays jazz", "guitar")])
    editor.save(tmp_path / "half")
    checkpoint.write(tmp_path / "half", tmp_path / "plain")
    assert_serves(tmp_path / "plain", editor.model.state_dict())


def test_a_writer_that_overtakes_is_followed(edit_model, tmp_path, monkeypatch, assert_serves):
    edited = edit_model()
    overtaking = [Edit("what city", "paris"), Edit("who", "person")]

    def check(self, folder):
        if overtaking:
            edited.editor.edit([overtaking.pop()])
            edited.editor.save(edited.out)
        return plain(self, folder)

    plain = FileRecord.check
    monkeypatch.setattr(FileRecord, "check", check)
    written = checkpoint.write(edited.out, tmp_path / "plain")
    assert written.turns == 4
    assert_serves(tmp_path / "plain", edited.served)


@pytest.mark.parametrize("kind", ["edited", "base"])
def test_a_damaged_model_is_refused_and_leaves_nothing(edit_model, tmp_path, kind):
    edited = edit_model()
    path = next(edited.out.glob(f"model-{kind}*.safetensors"))
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(InputError, match=path.name):
        checkpoint.write(edited.out, tmp_path / "new" / "plain")
    path.unlink()
    with pytest.raises(InputError, match=f"{path.name} is missing"):
        checkpoint.write(edited.out, tmp_path / "new" / "plain")
    assert not (tmp_path / "new").exists()


def test_a_folder_that_is_no_edited_model_is_refused(edit_model, tmp_path):
    with pytest.raises(InputError, match="is no edited model"):
        checkpoint.write(edit_model().base, tmp_path / "plain")


def test_a_method_that_cannot_leave_so_is_named(edit_model, tmp_path, monkeypatch):
    edited = edit_model()
    for exports, can in (((), "in no form"), (("delta", "lora"), "only as delta, lora")):
        info = MethodInfo("ultraedit", "", "", exports=exports)
        monkeypatch.setattr(UltraEdit, "info", info)
        with pytest.raises(InputError, match=f"method ultraedit .* as checkpoint, {can}"):
            checkpoint.write(edited.out, tmp_path / "plain")
    assert not (tmp_path / "plain").exists()


def test_a_config_that_names_its_weight_file_names_it_no_more(tmp_path):
    (tmp_path / "from").mkdir()
    (tmp_path / "to").mkdir()
    config = {"transformers_weights": "other.safetensors", "torch_dtype": "float32", "a": 1}
    (tmp_path / "from" / "config.json").write_text(json.dumps(config))
    copy_config_files(tmp_path / "from", tmp_path / "to", "float32")
    assert json.loads((tmp_path / "to" / "config.json").read_text()) == {
        "torch_dtype": "float32",
        "a": 1,
    }


def test_a_single_weight_file_has_the_plain_name_and_no_index(tmp_path):
    save_file({"a": torch.zeros(3)}, tmp_path / "base.safetensors")
    assert finish_shards(tmp_path, [tmp_path / "base.safetensors"]) == (("model.safetensors",), 12)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
