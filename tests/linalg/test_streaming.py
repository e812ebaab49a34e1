"""Offloaded blocks: fetched once for many passes, dropped again, whatever happens in between."""

from collections import Counter

import pytest
import torch

from ultraedit import Edit, Editor
from ultraedit.linalg.streaming import is_streamed, resident
from ultraedit.models.discover import frozen_below
from ultraedit.models.load import load
from ultraedit.models.presets import choose_modules

pytest.importorskip("accelerate")
from accelerate import cpu_offload
from accelerate.utils import OffloadedWeightsLoader

TEXTS = [torch.tensor([[1, 50, 60]]), torch.tensor([[1, 70, 80, 90]]), torch.tensor([[5, 9]])]


def on_meta(block):
    return [name for name, p in block.named_parameters() if p.device.type == "meta"]


@pytest.fixture
def loads(monkeypatch):
    """How often each weight was read."""
    counts = Counter()
    read = OffloadedWeightsLoader.__getitem__

    def counted(self, key):
        counts[key] += 1
        return read(self, key)

    monkeypatch.setattr(OffloadedWeightsLoader, "__getitem__", counted)
    return counts


@pytest.fixture
def pair(build, tokenizer, tmp_path):
    """`pair(architecture)`: a model, the same with two blocks on the disk, and these blocks."""

    def make(architecture):
        plain = build(architecture)
        plain.save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        offloaded, _ = load(tmp_path, device="cpu", frozen="disk")
        blocks = [
            offloaded.get_submodule(name) for name in frozen_below(plain, choose_modules(plain))
        ]
        return plain, offloaded, blocks

    return make


@torch.no_grad()
def test_a_block_is_read_once_for_many_passes(pair, architecture, loads):
    plain, offloaded, blocks = pair(architecture)
    assert len(blocks) == 2
    assert all(is_streamed(block) for block in blocks)
    assert not any(is_streamed(block) for block in plain.modules())
    before = [on_meta(block) for block in blocks]
    assert all(before)
    expected = [plain(ids).logits for ids in TEXTS]
    loads.clear()
    with resident(blocks[0]), resident(blocks[1]):
        assert set(loads.values()) == {1}
        assert not any(is_streamed(block) or on_meta(block) for block in blocks)
        for ids, logits in zip(TEXTS, expected, strict=True):
            assert torch.equal(offloaded(ids).logits, logits)
        assert sum(loads.values()) == sum(len(names) for names in before)
        assert set(loads.values()) == {1}
    assert [on_meta(block) for block in blocks] == before
    assert all(is_streamed(block) for block in blocks)
    assert torch.equal(offloaded(TEXTS[0]).logits, expected[0])
    assert set(loads.values()) == {2}


@torch.no_grad()
def test_every_pass_reads_without_it(pair, loads):
    _, offloaded, _ = pair("llama")
    for ids in TEXTS:
        offloaded(ids)
    assert set(loads.values()) == {len(TEXTS)}


@torch.no_grad()
def test_an_exception_inside_leaves_the_block_as_it_was(pair, loads):
    plain, offloaded, blocks = pair("llama")

    def interrupted():
        offloaded(TEXTS[0])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), resident(blocks[0]):
        interrupted()
    assert is_streamed(blocks[0])
    assert len(on_meta(blocks[0])) == len(list(blocks[0].parameters()))
    assert torch.equal(offloaded(TEXTS[1]).logits, plain(TEXTS[1]).logits)


@torch.no_grad()
@pytest.mark.parametrize("reads", [0, 1, 2, 5])
def test_a_weight_that_cannot_be_read_leaves_none_on_the_device(pair, monkeypatch, reads):
    # GPT-2's maps have biases: the failure may come between two weights of a module.
    plain, offloaded, blocks = pair("gpt2")
    read, left = OffloadedWeightsLoader.__getitem__, iter(range(reads))

    def fails(self, key):
        if next(left, None) is None:
            raise OSError("the disk is gone")
        return read(self, key)

    with monkeypatch.context() as patch:
        patch.setattr(OffloadedWeightsLoader, "__getitem__", fails)
        with pytest.raises(OSError, match="is gone"), resident(blocks[0]):
            pass
    assert is_streamed(blocks[0])
    assert len(on_meta(blocks[0])) == len(list(blocks[0].parameters()))
    assert torch.equal(offloaded(TEXTS[1]).logits, plain(TEXTS[1]).logits)


@torch.no_grad()
def test_within_itself_it_does_nothing(pair, loads):
    _, _, blocks = pair("llama")
    with resident(blocks[0]):
        with resident(blocks[0]):
            pass
        assert not on_meta(blocks[0])
        assert set(loads.values()) == {1}
    assert on_meta(blocks[0])


@torch.no_grad()
def test_a_block_that_is_not_offloaded_is_left_alone(build):
    model = build("llama")
    block = model.model.layers[0]
    before = dict(block.named_parameters())
    with resident(block):
        assert all(p is before[name] for name, p in block.named_parameters())
    assert all(p is before[name] for name, p in block.named_parameters())


@torch.no_grad()
def test_weights_in_cpu_memory(build):
    """As accelerate keeps them for a GPU; here the execution device is the CPU itself."""
    plain, model = build("qwen2"), build("qwen2")
    cpu_offload(model, execution_device=torch.device("cpu"))
    block = model.model.layers[0]
    assert is_streamed(block)
    with resident(block):
        assert not on_meta(block)
        assert torch.equal(model(TEXTS[0]).logits, plain(TEXTS[0]).logits)
    assert len(on_meta(block)) == len(list(block.parameters()))
    assert torch.equal(model(TEXTS[0]).logits, plain(TEXTS[0]).logits)


def test_frozen_blocks_are_read_once_for_a_whole_window(pair, architecture, loads, tokenizer):
    plain, offloaded, blocks = pair(architecture)
    edits = [
        Edit(f"{place} plays in {city}", "jazz guitar")
        for place in ("the city", "what", "who")
        for city in ("paris", "france", "where was the person born")
    ]
    shifts = []
    for model in (plain, offloaded):
        editor = Editor(
            model, tokenizer, lr=1e-3, batch_tokens=40, check_learned=False, method="ultraedit"
        )
        editor.edit(edits[:1])  # samples text, and is checked against the plain pass
        before = {name: m.copy() for name, m in editor.workbench.masters.items()}
        loads.clear()
        editor.look_ahead(edits)
        for start in range(0, 9, 3):
            editor.edit(edits[start : start + 3])
        shifts.append({n: m.master - before[n] for n, m in editor.workbench.masters.items()})
    weights = sum(len(list(block.parameters())) for block in blocks)
    assert len(loads) == weights
    assert set(loads.values()) == {1}
    assert all(on_meta(block) for block in blocks)
    for name, shift in shifts[0].items():
        torch.testing.assert_close(shifts[1][name], shift, rtol=1e-5, atol=1e-9)
