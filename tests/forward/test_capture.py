import pytest
import torch
from torch.nn import functional as F

from ultraedit.encoding.batching import batches_of, collate
from ultraedit.encoding.tokenise import Encoded
from ultraedit.forward.capture import capture
from ultraedit.forward.score import score
from ultraedit.models.discover import projections


def random_texts(generator, count=5):
    def ids(low, high):
        size = int(torch.randint(low, high, (1,), generator=generator))
        return tuple(torch.randint(3, 400, (size,), generator=generator).tolist())

    texts = []
    for _ in range(count):
        target = ids(1, 5)
        texts.append(Encoded(ids(2, 12), target, len(target)))
    return texts


def modules_of(model, roles=("input", "output")):
    return {
        p.name: model.get_submodule(p.name)
        for p in projections(model)
        if p.role in roles and p.block in (1, 2)
    }


def by_hand(model, modules, text):
    """Rows of one text, alone, through weight-free autograd of the plain forward pass."""
    ids = torch.tensor([text.ids])
    store = {}
    handles = [
        module.register_forward_hook(
            lambda m, args, out, name=name: store.__setitem__(
                name, (args[0], out.retain_grad() or out)
            )
        )
        for name, module in modules.items()
    ]
    logits = model(ids).logits[0]
    for handle in handles:
        handle.remove()
    first = len(text.prompt) - 1
    span = slice(first, first + len(text.target))
    F.cross_entropy(logits[span].double(), torch.tensor(text.target), reduction="sum").backward()
    # OPT flattens batch and positions; with one text that is the same rows.
    return {
        name: (x.detach().flatten(0, -2)[span], y.grad.flatten(0, -2)[span])
        for name, (x, y) in store.items()
    }


def test_rows_are_those_of_each_text_alone(build, architecture, generator):
    model = build(architecture)
    texts, modules = random_texts(generator), modules_of(model)
    rows = capture(model, modules, batches_of(texts, 48, "cpu", 0))
    for place, text in enumerate(texts):
        for name, (inputs, gradients) in by_hand(model, modules, text).items():
            mine = rows[name].edit_index == place
            torch.testing.assert_close(rows[name].inputs[mine], inputs, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(rows[name].gradients[mine], gradients, rtol=1e-3, atol=1e-5)
        (alone,) = score(model, [collate([text], [0], "cpu", 0)])
        torch.testing.assert_close(rows[name].losses[mine], alone.losses, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right", "both"])
def test_padding_side_and_batch_size_do_not_matter(build, architecture, side, generator):
    model = build(architecture)
    texts, modules = random_texts(generator), modules_of(model)
    alone = capture(model, modules, batches_of(texts, 1, "cpu", 0))
    padded = capture(model, modules, [collate(texts, range(5), "cpu", 0, side)])
    for name in modules:
        assert torch.equal(alone[name].edit_index, padded[name].edit_index)
        torch.testing.assert_close(alone[name].inputs, padded[name].inputs, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            alone[name].gradients, padded[name].gradients, rtol=1e-3, atol=1e-5
        )


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox"])
def test_gradients_are_finite_differences(build, family, generator):
    """Move one output of one module at one answer token; the loss must follow.

    Families whose norms compute in what the model does: Llama's do in float32, whose rounding
    a difference of two losses magnifies.
    """
    model = build(family).double()
    text = random_texts(generator, 1)[0]
    modules = modules_of(model, ("output",))
    name, module = next(iter(modules.items()))
    rows = capture(model, modules, [collate([text], [0], "cpu", 0)])[name]
    position, feature, step = len(text.prompt) - 1, 3, 1e-4

    def loss(move):
        def hook(m, args, out):
            out = out.clone()
            out[0, position, feature] += move
            return out

        handle = module.register_forward_hook(hook)
        with torch.no_grad():
            logits = model(torch.tensor([text.ids])).logits[0]
        handle.remove()
        span = logits[position : position + len(text.target)]
        return F.cross_entropy(span, torch.tensor(text.target), reduction="sum")

    slope = (loss(step) - loss(-step)) / (2 * step)
    assert float(rows.gradients[0, feature]) == pytest.approx(float(slope), rel=1e-4, abs=1e-6)


def test_the_callers_gradient_flags_and_weights_are_left_alone(build, generator):
    model = build("llama")
    model.model.embed_tokens.weight.requires_grad_(False)
    flags = [p.requires_grad for p in model.parameters()]
    before = {name: p.clone() for name, p in model.named_parameters()}
    capture(model, modules_of(model), batches_of(random_texts(generator), 64, "cpu", 0))
    assert [p.requires_grad for p in model.parameters()] == flags
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())
    assert not any(m._forward_hooks for m in model.modules())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_models_give_float32_rows_near_the_float32_ones(build, dtype, generator):
    texts = random_texts(generator)
    exact_model, half_model = build("llama"), build("llama").to(dtype)
    exact = capture(exact_model, modules_of(exact_model), batches_of(texts, 64, "cpu", 0))
    half = capture(half_model, modules_of(half_model), batches_of(texts, 64, "cpu", 0))
    for name, rows in half.items():
        assert rows.inputs.dtype == rows.gradients.dtype == torch.float32
        error = (rows.gradients - exact[name].gradients).norm() / exact[name].gradients.norm()
        assert error < (0.2 if dtype == torch.bfloat16 else 0.03)


def test_a_module_off_the_path_is_named(build, generator):
    model = build("llama")
    with pytest.raises(RuntimeError, match="stray"):
        capture(
            model,
            {"stray": torch.nn.Linear(2, 2)},
            batches_of(random_texts(generator), 64, "cpu", 0),
        )
