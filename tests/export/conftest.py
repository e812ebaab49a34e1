"""Edited models to export, and what an export is compared with."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from ultraedit import Edit, Editor

TURNS = [
    [Edit("the capital of france is", "paris"), Edit("who plays jazz", "guitar")],
    [Edit("where was the person born", "in paris")],
]


@dataclass
class Edited:
    """An edited model, on disk and in memory, and what it was edited from."""

    base: Path
    out: Path
    editor: Editor

    @property
    def served(self):
        return self.editor.model.state_dict()


@pytest.fixture
def edit_model(build, tokenizer, tmp_path):
    """`edit_model(architecture, dtype)`: two turns, saved after each."""

    def make(name="llama", dtype=torch.float32, size="30KB", seed=0, lr=0.05, **changes):
        root = tmp_path / f"{name}-{str(dtype)[6:]}-{seed}-{len(list(tmp_path.iterdir()))}"
        base = root / "base"
        build(name, seed=seed, **changes).to(dtype).save_pretrained(base, max_shard_size=size)
        tokenizer.save_pretrained(base)
        editor = Editor.from_pretrained(base, lr=lr, dtype=dtype, method="ultraedit")
        for turn in TURNS:
            editor.edit(turn)
            editor.save(root / "out")
        return Edited(base, root / "out", editor)

    return make


@pytest.fixture(params=["llama-float32", "llama-bfloat16", "gpt2-float32", "gpt2-bfloat16"])
def edited(request, edit_model):
    name, dtype = request.param.split("-")
    return edit_model(name, getattr(torch, dtype))


def same(first, second):
    """Equal bit for bit."""
    return (
        first.dtype == second.dtype
        and first.shape == second.shape
        and torch.equal(
            first.contiguous().reshape(-1).view(torch.uint8),
            second.contiguous().reshape(-1).view(torch.uint8),
        )
    )


def assert_plain(folder):
    """Standard names, every tensor once, nothing of ours, nothing left over."""
    shards = sorted(path.name for path in folder.glob("*.safetensors"))
    index = folder / "model.safetensors.index.json"
    if len(shards) == 1:
        assert shards == ["model.safetensors"]
        assert not index.exists()
    else:
        count = len(shards)
        assert shards == [f"model-{n:05d}-of-{count:05d}.safetensors" for n in range(1, count + 1)]
        held, total = {}, 0
        for name in shards:
            with safe_open(folder / name, framework="pt") as shard:
                assert shard.metadata() == {"format": "pt"}
                for key in shard.keys():  # noqa: SIM118 - not a mapping
                    assert key not in held
                    held[key] = name
                    tensor = shard.get_tensor(key)
                    total += tensor.numel() * tensor.element_size()
        content = json.loads(index.read_text())
        assert content == {"metadata": {"total_size": total}, "weight_map": held}
    assert not (folder / "ultraedit").exists()
    assert not list(folder.rglob(".*"))
    assert not list(folder.parent.glob(".tmp-*"))


@pytest.fixture
def assert_serves():
    """`check(folder, weights)`: a plain checkpoint that transformers loads as those weights."""

    def check(folder, weights):
        assert_plain(folder)
        model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
        assert not any(info.values()), info
        loaded = model.state_dict()
        assert loaded.keys() == weights.keys()
        assert [name for name in weights if not same(loaded[name], weights[name])] == []
        ids = AutoTokenizer.from_pretrained(folder)("the capital", return_tensors="pt").input_ids
        assert model.generate(ids, max_new_tokens=3, do_sample=False).shape[1] > ids.shape[1]

    return check


@pytest.fixture
def contents():
    """`contents(folder)`: every path below it, with its bytes."""
    return lambda folder: {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }
