import json

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from gguf.quants import dequantize

from tiny_gguf import write_tiny
from ultraedit import Edit, Editor, InputError
from ultraedit.models import gguf
from ultraedit.models.gguf import GgufOrigin, converted_folder, digest_of
from ultraedit.models.load import kept_name, resolve


@pytest.fixture
def file(tokenizer, tmp_path):
    return write_tiny(tmp_path / "tiny.gguf", tokenizer)


def test_a_file_is_a_model_and_its_folder_says_which_file(file, tmp_path):
    editor = Editor.from_pretrained(file, method="ultraedit")
    assert editor.base_name == str(file)
    reader = {tensor.name: tensor for tensor in GGUFReader(file).tensors}
    for block in range(4):
        held = reader[f"blk.{block}.ffn_down.weight"]
        wanted = torch.from_numpy(dequantize(held.data, held.tensor_type).copy())
        found = editor.model.get_submodule(f"model.layers.{block}.mlp.down_proj").weight
        assert torch.equal(found.float(), wanted.bfloat16().float())
    editor.edit([Edit("the capital of france is", "paris")])
    editor.save(tmp_path / "out")
    assert GgufOrigin.of(tmp_path / "out") == GgufOrigin(str(file), digest_of(file))
    again = Editor.load(tmp_path / "out")
    assert again.ask("the capital of france is", 3) == editor.ask("the capital of france is", 3)


def test_it_is_converted_once(file, monkeypatch):
    folder = converted_folder(file)
    monkeypatch.setattr(gguf, "convert", None)
    assert converted_folder(file) == folder
    assert resolve(file) == str(folder)
    assert kept_name(file) == str(file)


def test_a_folder_and_a_file_of_it(file):
    editor = Editor.from_pretrained(file.parent, gguf_file=file.name, method="ultraedit")
    assert editor.base_name == str(file)
    with pytest.raises(InputError, match="none.gguf"):
        Editor.from_pretrained(file.parent, gguf_file="none.gguf")


def test_an_interrupted_conversion_leaves_nothing(file, monkeypatch):
    own = gguf.convert

    def interrupted(path, folder):
        own(path, folder)
        raise KeyboardInterrupt

    monkeypatch.setattr(gguf, "convert", interrupted)
    with pytest.raises(KeyboardInterrupt):
        converted_folder(file)
    monkeypatch.setattr(gguf, "convert", own)
    folder = converted_folder(file)
    assert [p.name for p in folder.parent.iterdir() if not p.name.endswith("lock")] == [folder.name]


@pytest.mark.parametrize("content", [b"", b"GGUF", b"something else " * 100])
def test_what_is_no_gguf_is_one_line(tmp_path, content):
    path = tmp_path / "broken.gguf"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"broken\.gguf could not be converted") as caught:
        Editor.from_pretrained(path)
    assert "\n" not in str(caught.value)


def test_an_architecture_that_transformers_cannot_read_is_named(tokenizer, tmp_path):
    path = write_tiny(tmp_path / "other.gguf", tokenizer, kind="Q8_0", architecture="rwkv7")
    with pytest.raises(InputError, match=r"architecture rwkv7, weights in F32, Q8_0") as caught:
        Editor.from_pretrained(path)
    assert "\n" not in str(caught.value)


def test_a_damaged_note_is_named(tmp_path):
    assert GgufOrigin.of(tmp_path) is None
    (tmp_path / gguf.ORIGIN).write_text(json.dumps({"path": "x"}))
    with pytest.raises(InputError, match=r"gguf\.json is damaged"):
        GgufOrigin.of(tmp_path)


def test_a_changed_file_has_another_digest(file, tokenizer):
    before = digest_of(file)
    write_tiny(file, tokenizer, seed=1)
    assert digest_of(file) != before
    assert len(np.unique([before, digest_of(file)])) == 2
