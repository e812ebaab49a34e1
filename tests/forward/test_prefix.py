import pytest
import torch

from ultraedit import Case, Edit, Editor, TurnRefusedError
from ultraedit.encoding.batching import batches_of, collate
from ultraedit.encoding.tokenise import Encoded
from ultraedit.forward.capture import capture
from ultraedit.forward.forward import answer_logits, split_logits
from ultraedit.forward.passes import Passes
from ultraedit.forward.prefix import Prefix
from ultraedit.forward.score import score
from ultraedit.models.discover import decoder_blocks, prefix_below
from ultraedit.models.presets import choose_modules

WIDTH = 32


def texts_of(generator, count=6):
    def ids(length):
        return tuple(torch.randint(3, 400, (length,), generator=generator).tolist())

    return [Encoded(ids(1 + place % 6), ids(1 + place % 3), 1) for place in range(count)]


def alone(text):
    return collate([text], [0], "cpu", 0)


def scores(model, batches, prefix=None):
    return score(model, batches, read=None if prefix is None else Passes(model, prefix, False))


def same_scores(first, second):
    return all(
        torch.equal(one.losses, other.losses) for one, other in zip(first, second, strict=True)
    )


def relative(found, exact):
    return float((found.double() - exact.double()).norm() / exact.double().norm().clamp(min=1e-30))


class Runs:
    """How often each block's own work was done."""

    def __init__(self, blocks):
        self.counts = [0] * len(blocks)
        for number, block in enumerate(blocks):
            parts = [m for m in block.modules() if m is not block]
            leaf = next(m for m in parts if not list(m.children()) and list(m.parameters()))
            leaf.register_forward_hook(lambda *_, number=number: self.add(number))

    def add(self, number):
        self.counts[number] += 1


@pytest.mark.parametrize("split_tokens", [0, 10**9])
@pytest.mark.parametrize("side", ["left", "right", "both", "apart"])
@pytest.mark.parametrize("batch_tokens", [12, 64])
def test_resumed_rows_are_the_plain_ones(
    build, architecture, generator, side, batch_tokens, split_tokens
):
    """Whatever is read ahead, in which batches, padded where, with prompts apart or not."""
    model = build(architecture)
    names = choose_modules(model, "auto")
    prefix = prefix_below(model, names)
    path, blocks = decoder_blocks(model)
    assert prefix.frozen == min(int(n.removeprefix(f"{path}.").split(".")[0]) for n in names) > 0
    modules = {name: model.get_submodule(name) for name in names}
    texts = texts_of(generator)
    read = Passes(model, prefix, split_tokens=split_tokens)
    ahead = texts[: int(torch.randint(0, 7, (1,), generator=generator))]
    prefix.hold(batches_of(ahead, 20, "cpu", 0), ahead=True)
    runs = Runs(blocks)
    for repeat in range(3):
        plain = capture(model, modules, batches_of(texts, 1, "cpu", 0))
        before = list(runs.counts)
        padded = ("both", True) if side == "apart" else (side,)
        batches = list(batches_of(texts, batch_tokens, "cpu", 0, *padded))
        found = capture(model, modules, batches, read)
        done = [after - count for after, count in zip(runs.counts, before, strict=True)]
        for name in names:
            assert torch.equal(found[name].edit_index, plain[name].edit_index)
            assert relative(found[name].inputs, plain[name].inputs) < 1e-5
            assert relative(found[name].gradients, plain[name].gradients) < 1e-5
        assert all(block.__dict__.get("forward") is None for block in blocks)
        # From the second round on the frozen blocks have nothing left to do.
        if repeat:
            assert not any(done[: prefix.frozen])
        assert all(done[prefix.frozen :])
        with torch.no_grad():
            for module in modules.values():
                noise = torch.randn(module.weight.shape, generator=generator)
                module.weight += 0.01 * noise


def test_the_same_batch_resumed_is_the_whole_pass_bit_for_bit(build, architecture, generator):
    model = build(architecture)
    prefix = prefix_below(model, choose_modules(model, "auto"))
    batches = list(batches_of(texts_of(generator), 24, "cpu", 0))
    for _ in range(2):
        assert same_scores(scores(model, batches, prefix), scores(model, batches))


# The search for a step tells steps apart by less than half precision resolves.
@pytest.mark.parametrize(
    ("dtype", "lr"), [("float32", "auto"), ("float32", 1e-3), ("bfloat16", 1e-3), ("float16", 1e-3)]
)
def test_turns_are_those_of_plain_passes(build, tokenizer, dtype, lr):
    edits = [Edit("the capital of france is", "jazz"), Edit("who plays guitar in", "the city")]
    found = []
    for plain in (False, True):
        model = build("llama").to(getattr(torch, dtype))
        editor = Editor(model, tokenizer, lr=lr, method="ultraedit")
        if plain:
            editor.workbench.passes.prefix, editor.workbench.passes.split = None, False
        before = {n: m.master.clone() for n, m in editor.workbench.masters.items()}
        for _ in range(2):
            editor.edit(edits)
        if not plain:
            prefix = editor.workbench.passes.prefix
            assert prefix is not None
            assert editor.workbench.passes.split
            assert prefix.bytes == 0, "nothing is held between turns"
        found.append({n: m.master - before[n] for n, m in editor.workbench.masters.items()})
    limit = {"float32": 1e-5, "bfloat16": 0.1, "float16": 0.02}[dtype]
    assert all(relative(found[0][name], found[1][name]) < limit for name in found[0])


def test_a_second_pass_of_a_turn_leaves_the_frozen_blocks_alone(build, tokenizer):
    model = build("gpt2")
    editor = Editor(model, tokenizer, lr=1e-3, method="ultraedit")
    texts = [editor.workbench.encoder.encode("the capital of france is", "jazz")]
    editor.workbench.score(texts)
    runs = Runs(decoder_blocks(model)[1])
    editor.workbench.capture(texts)
    editor.workbench.score(texts)
    frozen = editor.workbench.passes.prefix.frozen
    assert not any(runs.counts[:frozen])
    assert all(count == 2 for count in runs.counts[frozen:])


def test_nothing_is_held_after_an_evaluation_or_a_refused_turn(build, tokenizer, monkeypatch):
    editor = Editor(build("llama"), tokenizer, lr=1e-3, method="ultraedit")
    prefix = editor.workbench.passes.prefix
    edit = Edit("the capital of france is", "jazz")
    text = editor.workbench.encoder.encode(edit.prompt, edit.target)
    editor.workbench.score([text])
    assert prefix.bytes > 0
    editor.evaluate([Case(edit)])
    assert prefix.bytes == 0
    monkeypatch.setattr(editor.workbench, "is_finite", lambda: False)
    editor.workbench.look_ahead([text])
    with pytest.raises(TurnRefusedError):
        editor.edit([edit])
    assert prefix.bytes == 0


def held_bytes(texts):
    return sum((len(text.ids) - 1) * WIDTH * 4 for text in texts)


def prefix_of(model, most_bytes):
    prefix = Prefix(model, list(decoder_blocks(model)[1]), 2, most_bytes)
    prefix.hold([alone(Encoded((3, 4), (5,), 1))], ahead=False)
    prefix.forget()
    return prefix


def test_the_buffer_is_bounded_and_the_oldest_go_first(build, generator):
    model = build("llama")
    texts = texts_of(generator, 4)
    ids = [text.ids[:-1] for text in texts]
    prefix = prefix_of(model, held_bytes(texts[2:]))
    for text in texts:
        assert prefix.admit([text.ids[:-1]]) == [text.ids[:-1]]
        prefix.hold([alone(text)], ahead=False)
        assert prefix.bytes <= prefix.most_bytes
    assert [i in prefix for i in ids] == [False, False, True, True]
    assert prefix.admit(ids[3:]) == []
    # Of more than there is room for the first are held: the last would push them out in turn.
    prefix.forget()
    admitted = prefix.admit(ids)
    assert admitted == ids[: len(admitted)]
    assert 0 < held_bytes(texts[: len(admitted)]) <= prefix.most_bytes
    tiny = prefix_of(model, 1)
    assert tiny.admit(ids) == []
    assert same_scores(
        scores(model, [alone(t) for t in texts], tiny), scores(model, [alone(t) for t in texts])
    )
    assert tiny.bytes == 0


def test_what_was_read_ahead_stays_until_its_turn(build, generator):
    model = build("llama")
    texts = texts_of(generator, 6)
    ids = [text.ids[:-1] for text in texts]
    prefix = prefix_of(model, held_bytes(texts[:4]))
    prefix.hold([alone(text) for text in texts[:3]], ahead=True)
    for text in texts[3:]:
        for _ in prefix.admit([text.ids[:-1]]):
            prefix.hold([alone(text)], ahead=False)
        assert all(text in prefix for text in ids[:3])
    prefix.drop(ids[:1])
    assert [i in prefix for i in ids] == [False, True, True, False, False, False]
    prefix.drop(ids[1:3])
    assert prefix.bytes == 0


def test_texts_that_differ_are_told_apart(build):
    model = build("llama")
    prefix = prefix_of(model, 2**20)
    batches = [
        collate([Encoded((3, 4), (5,), 1)], [0], "cpu", 0),
        collate([Encoded((3, 6), (5,), 1)], [0], "cpu", 0),
        collate([Encoded((3, 4), (5,), 1), Encoded((3, 4, 0), (5,), 1)], [0, 1], "cpu", 0),
        collate([Encoded((3, 4, 0), (5,), 1), Encoded((3, 4), (5,), 1)], [0, 1], "cpu", 0),
    ]
    for _ in range(2):
        for batch in batches:
            for one, other in zip(
                scores(model, [batch], prefix), scores(model, [batch]), strict=True
            ):
                torch.testing.assert_close(one.losses, other.losses, rtol=1e-5, atol=1e-6)


def test_modules_outside_blocks_or_in_the_first_have_no_prefix(build):
    model = build("llama")
    assert prefix_below(model, ["model.layers.0.mlp.down_proj"]) is None
    assert prefix_below(model, ["model.layers.2.mlp.down_proj", "lm_head"]) is None
    assert prefix_below(model, []) is None
    both = ["model.layers.2.mlp.down_proj", "model.layers.1.mlp.up_proj"]
    assert prefix_below(model, both).frozen == 1


def test_an_interrupted_pass_leaves_the_blocks_as_they_were(build, generator):
    model = build("llama")
    blocks = decoder_blocks(model)[1]
    prefix = prefix_of(model, 2**20)
    batch = alone(texts_of(generator, 1)[0])
    inside = prefix.resumed(batch, slice(0, batch.width))
    inside.__enter__()
    assert blocks[0].__dict__.get("forward") is not None
    assert not inside.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert all("forward" not in block.__dict__ for block in blocks)
    assert not any(block._forward_hooks or block._forward_pre_hooks for block in blocks)


@pytest.mark.parametrize("held", [0, 2])
def test_a_batch_in_parts_runs_its_frozen_blocks_once_without_a_buffer(build, generator, held):
    """No text fits; a part's texts serve the answers' pass too, and are let go of then."""
    model = build("llama")
    names = choose_modules(model, "auto")
    blocks = decoder_blocks(model)[1]
    texts = [
        Encoded(text.ids[:1] * 3 + text.prompt, text.target, 1) for text in texts_of(generator)
    ]
    prefix = prefix_below(model, names)
    if held:
        prefix.hold(batches_of(texts[:held], 20, "cpu", 0), ahead=True)
    prefix.most_bytes = prefix.bytes
    batch = collate(texts, range(6), "cpu", 0, "both", [2, 4])
    plain = answer_logits(model, batch)
    runs = Runs(blocks)
    found = split_logits(model, batch, prefix.resumed)
    torch.testing.assert_close(found, plain, rtol=1e-4, atol=1e-5)
    assert runs.counts[: prefix.frozen] == [1 if held else 2] * prefix.frozen
    assert not prefix._passing
