import logging

import pytest
import torch

from ultraedit import Case, Edit, Editor, TurnRefusedError
from ultraedit.core.capture import capture
from ultraedit.core.prefix import Prefix
from ultraedit.encoding.batching import batches_of, collate
from ultraedit.encoding.tokenise import Encoded
from ultraedit.evaluation.teacher_forced import score
from ultraedit.models.discover import decoder_blocks, prefix_below
from ultraedit.models.presets import choose_modules


def texts_of(generator, count=6):
    def ids(length):
        return tuple(torch.randint(3, 400, (length,), generator=generator).tolist())

    return [Encoded(ids(3 + place % 4), ids(1 + place % 3), 1) for place in range(count)]


def same_rows(first, second):
    return first.keys() == second.keys() and all(
        torch.equal(first[name].inputs, second[name].inputs)
        and torch.equal(first[name].gradients, second[name].gradients)
        and torch.equal(first[name].edit_index, second[name].edit_index)
        for name in first
    )


def same_scores(first, second):
    return all(
        torch.equal(one.losses, other.losses) for one, other in zip(first, second, strict=True)
    )


class Runs:
    """How often each block's own work was done."""

    def __init__(self, blocks):
        self.counts = [0] * len(blocks)
        for number, block in enumerate(blocks):
            parts = [
                m for m in block.modules() if isinstance(m, torch.nn.Module) and m is not block
            ]
            leaf = next(m for m in parts if not list(m.children()) and list(m.parameters()))
            leaf.register_forward_hook(lambda *_, number=number: self.add(number))

    def add(self, number):
        self.counts[number] += 1


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("batch_tokens", [12, 64])
def test_resumed_passes_are_the_whole_ones_bit_for_bit(
    build, architecture, generator, side, batch_tokens
):
    model = build(architecture)
    names = choose_modules(model, "auto")
    prefix = prefix_below(model, names)
    path, blocks = decoder_blocks(model)
    assert prefix.frozen == min(int(n.removeprefix(f"{path}.").split(".")[0]) for n in names) > 0
    modules = {name: model.get_submodule(name) for name in names}
    texts = texts_of(generator)

    def batches():
        return batches_of(texts, batch_tokens, "cpu", 0, side)

    runs = Runs(blocks)
    for _ in range(3):
        plain = capture(model, modules, batches())
        plain_scores = score(model, batches())
        before = list(runs.counts)
        assert same_rows(capture(model, modules, batches(), prefix.reuse), plain)
        assert same_scores(score(model, batches(), reuse=prefix.reuse), plain_scores)
        done = [after - count for after, count in zip(runs.counts, before, strict=True)]
        assert all(block.__dict__.get("forward") is None for block in blocks)
        # From the second round on the frozen blocks have nothing left to do.
        if _ > 0:
            assert not any(done[: prefix.frozen])
        assert all(done[prefix.frozen :])
        with torch.no_grad():
            for module in modules.values():
                noise = torch.randn(module.weight.shape, generator=generator)
                module.weight += 0.01 * noise


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("lr", ["auto", 1e-3])
def test_turns_are_the_same_with_and_without(build, tokenizer, dtype, lr):
    edits = [Edit("the capital of france is", "jazz"), Edit("who plays guitar in", "the city")]
    found = []
    for prefixed in (True, False):
        model = build("llama").to(getattr(torch, dtype))
        editor = Editor(model, tokenizer, lr=lr)
        if not prefixed:
            editor.bench.prefix = None
        for _ in range(2):
            editor.edit(edits)
        if prefixed:
            assert editor.bench.prefix.checked
            assert editor.bench.prefix.usable
            assert editor.bench.prefix.bytes == 0, "nothing is held between turns"
        found.append({n: m.master.clone() for n, m in editor.bench.masters.items()})
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_a_second_pass_of_a_turn_leaves_the_frozen_blocks_alone(build, tokenizer):
    model = build("gpt2")
    editor = Editor(model, tokenizer, lr=1e-3)
    texts = [editor.bench.encoder.encode("the capital of france is", "jazz")]
    editor.bench.score(texts)
    runs = Runs(decoder_blocks(model)[1])
    editor.bench.capture(texts)
    editor.bench.score(texts)
    frozen = editor.bench.prefix.frozen
    assert not any(runs.counts[:frozen])
    assert all(count == 2 for count in runs.counts[frozen:])


def test_nothing_is_held_after_an_evaluation_or_a_refused_turn(build, tokenizer, monkeypatch):
    editor = Editor(build("llama"), tokenizer, lr=1e-3)
    edit = Edit("the capital of france is", "jazz")
    editor.bench.score([editor.bench.encoder.encode(edit.prompt, edit.target)])
    assert editor.bench.prefix.bytes > 0
    editor.evaluate([Case(edit)])
    assert editor.bench.prefix.bytes == 0
    monkeypatch.setattr(editor.bench, "is_finite", lambda: False)
    with pytest.raises(TurnRefusedError):
        editor.edit([edit])
    assert editor.bench.prefix.bytes == 0


def test_the_buffer_is_bounded_and_the_oldest_go_first(build, generator):
    model = build("llama")
    _, blocks = decoder_blocks(model)
    texts = texts_of(generator, 4)
    one = [collate([text], [0], "cpu", 0) for text in texts]
    sizes = [batch.input_ids.numel() * 32 * 4 for batch in one]
    prefix = Prefix(list(blocks), 2, sizes[2] + sizes[3])
    runs = Runs(blocks)
    for batch in one:
        score(model, [batch], reuse=prefix.reuse)
    assert prefix.bytes <= sizes[2] + sizes[3]
    before = runs.counts[0]
    score(model, one[3:], reuse=prefix.reuse)
    assert runs.counts[0] == before
    score(model, one[:1], reuse=prefix.reuse)
    assert runs.counts[0] == before + 1
    tiny = Prefix(list(blocks), 2, 1)
    score(model, one, reuse=tiny.reuse)
    assert tiny.bytes == 0


def test_texts_that_differ_are_told_apart(build):
    model = build("llama")
    prefix = Prefix(list(decoder_blocks(model)[1]), 2, 2**20)
    batches = [
        collate([Encoded((3, 4), (5,), 1)], [0], "cpu", 0),
        collate([Encoded((3, 6), (5,), 1)], [0], "cpu", 0),
        collate([Encoded((3, 4), (5,), 1), Encoded((3, 4, 0), (5,), 1)], [0, 1], "cpu", 0),
        collate([Encoded((3, 4, 0), (5,), 1), Encoded((3, 4), (5,), 1)], [0, 1], "cpu", 0),
    ]
    for _ in range(2):
        for batch in batches:
            assert same_scores(score(model, [batch], reuse=prefix.reuse), score(model, [batch]))


@pytest.mark.parametrize("fault", ["side channel", "keyword"])
def test_a_structure_that_does_not_allow_it_falls_back_with_one_line(
    build, tokenizer, caplog, fault
):
    model = build("llama")
    _, blocks = decoder_blocks(model)
    told = {}
    plain_first, plain_last = blocks[0].forward, blocks[3].forward

    def first(hidden_states, *args, **kwargs):
        told["hidden"] = hidden_states
        told["count"] = told.get("count", 0) + 1
        return plain_first(hidden_states, *args, **kwargs)

    def last(hidden_states, *args, **kwargs):
        extra = told["hidden"] * told["count"] if fault == "side channel" else told.pop("hidden")
        return plain_last(hidden_states + extra, *args, **kwargs)

    blocks[0].forward, blocks[3].forward = first, last
    editor = Editor(model, tokenizer, lr=1e-3)
    with caplog.at_level(logging.WARNING, logger="ultraedit"):
        for _ in range(2):
            editor.edit([Edit("the capital of france is", "jazz")])
    assert not editor.bench.prefix.usable
    assert len(caplog.records) == 1
    assert "whole model" in caplog.text
    assert blocks[0].forward is first


def test_modules_outside_blocks_or_in_the_first_have_no_prefix(build):
    model = build("llama")
    assert prefix_below(model, ["model.layers.0.mlp.down_proj"]) is None
    assert prefix_below(model, ["model.layers.2.mlp.down_proj", "lm_head"]) is None
    assert prefix_below(model, []) is None
    both = ["model.layers.2.mlp.down_proj", "model.layers.1.mlp.up_proj"]
    assert prefix_below(model, both).frozen == 1


def test_an_interrupted_pass_leaves_the_blocks_as_they_were(build, generator):
    model = build("llama")
    _, blocks = decoder_blocks(model)
    prefix = Prefix(list(blocks), 2, 2**20)
    batch = collate(texts_of(generator, 1), [0], "cpu", 0)
    score(model, [batch], reuse=prefix.reuse)
    inside = prefix.reuse(batch)
    inside.__enter__()
    assert blocks[0].__dict__.get("forward") is not None
    assert not inside.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert all("forward" not in block.__dict__ for block in blocks)
