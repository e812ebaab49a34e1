"""An editing session in miniature, and what must hold of every OUT it is written to."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from ultraedit.storage import Snapshot

MODULES = {
    "llama": ["model.layers.1.mlp.down_proj.weight", "model.layers.2.mlp.down_proj.weight"],
    "gpt2": ["transformer.h.1.mlp.c_proj.weight", "transformer.h.2.mlp.c_proj.weight"],
}


class Session:
    """A model whose named parameters change from turn to turn, with float32 masters."""

    def __init__(self, model, names, originals=None):
        self.model = model
        self.parameters = {name: model.get_parameter(name) for name in names}
        now = {name: p.detach().clone() for name, p in self.parameters.items()}
        self.originals = originals or now
        self.masters = {name: weight.float() for name, weight in now.items()}
        self.version = 0

    @torch.no_grad()
    def turn(self) -> Snapshot:
        self.version += 1
        for name, parameter in self.parameters.items():
            self.masters[name] = self.masters[name] + 0.01 * torch.randn(parameter.shape)
            parameter.copy_(self.masters[name])
        served = {name: p.detach().clone() for name, p in self.parameters.items()}
        return Snapshot(
            served=served,
            masters={
                name: weight if weight.dtype == torch.float32 else self.masters[name].clone()
                for name, weight in served.items()
            },
            originals=self.originals,
            state={
                "mean": torch.randn(7, dtype=torch.float64),
                "count": torch.tensor(self.version),
                "seen": torch.tensor([True, False]),
                "keys/P": torch.randn(3, 5).bfloat16(),
                "empty": torch.zeros(0, 4),
            },
            settings={"method": "ultraedit", "lr": 0.1 * self.version, "modules": list(served)},
            version=self.version,
        )


@pytest.fixture
def session():
    """`session(model, names)`: begins to edit those parameters."""
    return Session


@pytest.fixture
def modules():
    """Architecture -> two parameters to edit."""
    return MODULES


def same(first, second) -> bool:
    """Equal bit for bit, unlike `torch.equal` for NaN and for -0."""
    return (
        first.dtype == second.dtype
        and first.shape == second.shape
        and torch.equal(
            first.contiguous().reshape(-1).view(torch.uint8),
            second.contiguous().reshape(-1).view(torch.uint8),
        )
    )


@pytest.fixture
def assert_same_snapshot():
    def check(first, second):
        for field in ("served", "masters", "originals", "state"):
            one, other = getattr(first, field), getattr(second, field)
            assert list(one) == list(other), field
            assert all(same(one[name], other[name]) for name in one), field
        assert first.settings == second.settings
        assert first.version == second.version

    return check


def open_out(out):
    """What plain transformers makes of OUT; complains of every key out of place."""
    model, info = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not any(info.values()), info
    return model


@pytest.fixture
def assert_serves():
    """`check(out, model)`: OUT is that model, to every loader there is."""

    def check(out, model):
        loaded = open_out(out)
        assert loaded.dtype == model.dtype
        ours, theirs = model.state_dict(), loaded.state_dict()
        assert ours.keys() == theirs.keys()
        assert [name for name in ours if not same(ours[name], theirs[name])] == []
        assert AutoTokenizer.from_pretrained(out)("the capital").input_ids
        assert_plain_checkpoint(out)

    return check


def assert_plain_checkpoint(out):
    """No tensor twice, an index that names exactly what is there, and nothing left over."""
    assert not (out / "model.safetensors").exists()
    index = json.loads((out / "model.safetensors.index.json").read_text())
    held = {}
    for path in out.glob("*.safetensors"):
        assert path.name.startswith("model"), "some loaders look for model*.safetensors alone"
        with safe_open(path, framework="pt") as shard:
            for key in shard.keys():  # noqa: SIM118 - not a mapping
                assert key not in held, f"{key} is in {held[key]} and {path.name}"
                held[key] = path.name
                assert shard.metadata()["format"] == "pt"
    assert index["weight_map"] == held
    assert not [path for path in out.rglob("*") if path.name.startswith(".tmp-")]


@pytest.fixture
def opened():
    return open_out
