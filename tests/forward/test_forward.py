import pytest
import torch

from ultraedit.encoding.batching import collate
from ultraedit.encoding.tokenise import Encoded
from ultraedit.forward.forward import answer_logits, forward, split_logits
from ultraedit.models.discover import decoder_blocks


def random_texts(generator, count=5):
    def ids(low, high):
        size = int(torch.randint(low, high, (1,), generator=generator))
        return tuple(torch.randint(3, 400, (size,), generator=generator).tolist())

    return [Encoded(ids(1, 12), ids(1, 5), 1) for _ in range(count)]


@pytest.mark.parametrize("side", ["left", "right", "both"])
def test_the_head_sees_answer_rows_alone(build, architecture, generator, side):
    model = build(architecture)
    batch = collate(random_texts(generator), range(5), "cpu", 0, side)
    seen = []
    model.get_output_embeddings().register_forward_hook(
        lambda module, args, output: seen.append(output.shape[:-1].numel())
    )
    with torch.no_grad():
        whole = forward(model, batch)[batch.answer_mask]
        found = answer_logits(model, batch)
    assert seen == [batch.input_ids.numel(), int(batch.answer_mask.sum())]
    torch.testing.assert_close(found, whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right", "both"])
def test_answers_after_their_prompts_are_those_of_one_pass(build, architecture, generator, side):
    model = build(architecture)
    texts = [*random_texts(generator), Encoded((7,), (8, 9), 1)]
    batch = collate(texts, range(6), "cpu", 0, side)
    with torch.no_grad():
        torch.testing.assert_close(
            split_logits(model, batch), answer_logits(model, batch), rtol=1e-4, atol=1e-5
        )


def test_prompts_in_parts_are_those_of_one_pass(build, architecture, generator):
    model = build(architecture)
    texts = [*random_texts(generator), Encoded((7,), (8, 9), 1), Encoded((9,), (8,), 1)]
    texts.sort(key=lambda text: len(text.prompt))
    alone = collate(texts, range(7), "cpu", 0, "both")
    for parts in ([2, 3, 2], [1] * 7, [6, 1]):
        batch = collate(texts, range(7), "cpu", 0, "both", parts)
        with torch.no_grad():
            found, expected = split_logits(model, batch), answer_logits(model, alone)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_prompts_leave_no_graph_and_end_at_the_last_keys(build, generator):
    model = build("llama")
    blocks = decoder_blocks(model)[1]
    seen = []
    blocks[3].mlp.register_forward_hook(lambda m, a, out: seen.append((out.shape[1], out.grad_fn)))
    blocks[1].mlp.register_forward_hook(lambda m, a, out: seen.append((out.shape[1], out.grad_fn)))
    batch = collate(random_texts(generator), range(5), "cpu", 0, "both")
    logits = split_logits(model, batch)
    assert logits.grad_fn is not None
    answers = batch.width - batch.first_answer
    # Block 1 over prompts without a graph, then both blocks over answers with one.
    assert [columns for columns, _ in seen] == [batch.first_answer, answers, answers]
    assert [graph is not None for _, graph in seen] == [False, True, True]


def test_the_heads_of_later_passes_are_as_before(build, generator):
    model = build("llama")
    batch = collate(random_texts(generator), range(5), "cpu", 0, "both")
    with torch.no_grad():
        before = forward(model, batch)
        split_logits(model, batch)
        assert torch.equal(forward(model, batch), before)
    assert not any(m._forward_pre_hooks for m in model.modules())
