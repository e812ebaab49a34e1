"""Tensors gathered from several files, as the safetensors library reads them."""

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ultraedit.storage.atomic import write_file
from ultraedit.storage.shards import copy_tensors, read_header


def test_any_dtypes_of_any_files_come_back_aligned(tmp_path, monkeypatch, generator):
    monkeypatch.setattr("ultraedit.storage.shards.BUFFER", 7)
    one, other = tmp_path / "one.safetensors", tmp_path / "other.safetensors"
    tensors = {
        "a": torch.tensor([True, False, True]),
        "b": torch.randn(3, 5, generator=generator).bfloat16(),
        "c": torch.randn(7, generator=generator),
        "d": torch.zeros(0, 4),
        "e": torch.arange(5),
        "f": torch.tensor(2.5),
    }
    save_file({name: tensors[name] for name in "ab"} | {"unused": torch.ones(3)}, one)
    save_file({name.upper(): tensors[name] for name in "cdef"}, other)
    places = {f"new.{name}": (one, name) for name in "ab"}
    places |= {f"new.{name}": (other, name.upper()) for name in "cdef"}
    path = tmp_path / "new.safetensors"
    write_file(path, lambda sink: copy_tensors(places, {"format": "pt", "ß": "é"}, sink))
    found = load_file(path)
    assert found.keys() == places.keys()
    for name, tensor in tensors.items():
        assert found[f"new.{name}"].dtype == tensor.dtype
        assert torch.equal(found[f"new.{name}"], tensor)
    with safe_open(path, framework="pt") as opened:
        assert opened.metadata() == {"format": "pt", "ß": "é"}
    header = read_header(path)
    assert header.data_start % 8 == 0
    for entry in header.tensors.values():
        assert entry.size == 0 or entry.start % entry.width == 0


def test_a_file_that_shrinks_meanwhile_is_named(tmp_path):
    path = tmp_path / "one.safetensors"
    save_file({"a": torch.ones(100)}, path)

    class Shrinking:
        def write(self, data):
            path.write_bytes(path.read_bytes()[:200])

    with pytest.raises(OSError, match=r"one\.safetensors became shorter"):
        copy_tensors({"a": (path, "a")}, {}, Shrinking())
