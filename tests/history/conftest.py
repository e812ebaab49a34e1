"""Small editors with a history."""

from types import SimpleNamespace

import pytest
import torch

from ultraedit import Edit, Editor

WORDS = ["paris", "france", "jazz", "guitar", "city", "person", "born", "plays"]


def some_edits(turn, count=4):
    """Edits that differ from turn to turn, with ids."""
    return [
        Edit(
            f"{WORDS[(turn + place) % 8]} in {WORDS[place * 3 % 7]} is",
            WORDS[(turn * 5 + place) % 8],
            id=f"e{turn}.{place}",
        )
        for place in range(count)
    ]


def state_of(editor):
    """Everything that an undo has to bring back, copied."""
    editor.restore_state()
    return {
        "turns": editor.turns,
        "edits": editor.edits,
        "run": editor.run,
        "state": {k: v.clone() for k, v in editor.method.state_dict().items()},
        "masters": {n: m.master.clone() for n, m in editor.workbench.masters.items()},
        "served": {n: m.parameter.detach().clone() for n, m in editor.workbench.masters.items()},
    }


def assert_same_state(first, second):
    for part in ("state", "masters", "served"):
        assert list(first[part]) == list(second[part]), part
        for name, tensor in first[part].items():
            other = second[part][name]
            assert tensor.dtype == other.dtype, name
            assert torch.equal(
                tensor.contiguous().view(torch.uint8) if tensor.dim() else tensor,
                other.contiguous().view(torch.uint8) if other.dim() else other,
            ), f"{part} {name}"
    assert {k: first[k] for k in ("turns", "edits", "run")} == {
        k: second[k] for k in ("turns", "edits", "run")
    }


@pytest.fixture(params=[("llama", "float32"), ("gpt2", "bfloat16")], ids="-".join)
def checkpoint(request, build, tokenizer, tmp_path):
    """A model folder; two architectures, one of them in half precision and with Conv1D."""
    architecture, dtype = request.param
    model = build(architecture).to(getattr(torch, dtype))
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def told(checkpoint, tmp_path):
    """`told(turns, **options)`: an editor saved after every turn, OUT, and the state after each."""

    def tell(turns=6, snapshot_every=50, **options):
        editor = Editor.from_pretrained(
            checkpoint, lr=1e-3, author="ada", **{"method": "ultraedit", **options}
        )
        editor.pending.snapshot_every = snapshot_every
        states = [state_of(editor)]
        for turn in range(1, turns + 1):
            editor.edit(some_edits(turn))
            editor.save(tmp_path / "out")
            states.append(state_of(editor))
        return editor, tmp_path / "out", states

    return tell


@pytest.fixture
def turn_of():
    return some_edits


@pytest.fixture
def state():
    return state_of


@pytest.fixture
def same_state():
    return assert_same_state


@pytest.fixture
def registered(monkeypatch):
    """`registered(method)`: as if another package had added it."""

    def register(method):
        entry = SimpleNamespace(load=lambda: method)
        monkeypatch.setattr("ultraedit.methods.registry.entry_points", lambda group: [entry])

    return register
