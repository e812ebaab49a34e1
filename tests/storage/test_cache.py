from pathlib import Path

import torch

from ultraedit.storage.cache import cache_folder, drop, keep, kept


def test_where_it_is(monkeypatch, tmp_path):
    monkeypatch.setenv("ULTRAEDIT_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.setenv("ULTRAEDIT_CACHE", "")
    assert cache_folder() is None
    monkeypatch.delenv("ULTRAEDIT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "ultraedit"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path("~/.cache/ultraedit").expanduser()


def test_what_is_kept_is_there_until_it_is_dropped():
    tensors = {"a": torch.randn(3, 2), "n": torch.tensor(4)}
    assert kept("one/two.safetensors") == {}
    keep("one/two.safetensors", tensors)
    found = kept("one/two.safetensors")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    drop("one/two.safetensors")
    drop("one/two.safetensors")
    assert kept("one/two.safetensors") == {}


def test_without_a_folder_nothing_is_kept(monkeypatch):
    monkeypatch.setenv("ULTRAEDIT_CACHE", "")
    keep("one", {"a": torch.ones(1)})
    drop("one")
    assert kept("one") == {}
