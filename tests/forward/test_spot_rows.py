import secrets

import pytest
import torch

from ultraedit.encoding.batching import batches_of
from ultraedit.encoding.tokenise import Encoded
from ultraedit.forward.passes import Passes
from ultraedit.forward.spot_rows import capture_spots
from ultraedit.models.presets import output_projections

TEXTS = [
    Encoded((1, 5, 9, 11, 4, 2), (7, 8), 2),
    Encoded((1, 30), (31,), 1),
    Encoded((1, 6, 7), (9, 12, 3), 3),
]
PLACES = [(3,), (1,), (1, 2)]


def rows_of(model, texts, places, passes, tokens=10_000, cut=True):
    modules = {name: model.get_submodule(name) for name in output_projections(model, range)}
    cuts = [min(some) for some in places] if cut else ()
    side = "both" if passes.split else "right"
    batches = list(batches_of(texts, tokens, "cpu", 0, side, passes.split, cuts))
    return capture_spots(model, modules, batches, places, passes)


def near(found, expected):
    assert found.row_text.tolist() == expected.row_text.tolist()
    assert found.text.tolist() == expected.text.tolist()
    torch.testing.assert_close(found.losses, expected.losses, rtol=1e-4, atol=1e-5)
    for name in expected.inputs:
        torch.testing.assert_close(found.inputs[name], expected.inputs[name], rtol=1e-3, atol=1e-5)
        scale = float(expected.gradients[name].abs().max())
        torch.testing.assert_close(
            found.gradients[name], expected.gradients[name], rtol=1e-3, atol=1e-4 * scale
        )


def test_what_lies_before_a_texts_first_place_needs_no_graph(build, architecture):
    model = build(architecture)
    apart = Passes(model, split_tokens=1)
    # Each column before the first place of all texts: cut where the place is, not the answer.
    batch = next(iter(batches_of(TEXTS, 10_000, "cpu", 0, "both", True, [3, 1, 1])))
    assert apart.first_column(batch) == 3 == batch.first_answer
    near(
        rows_of(model, TEXTS, PLACES, apart),
        rows_of(model, TEXTS, PLACES, Passes(model, split=False)),
    )


def test_batches_and_order_change_nothing(build):
    model = build("llama")
    apart = Passes(model, split_tokens=1)
    together = rows_of(model, TEXTS, PLACES, apart)
    near(rows_of(model, TEXTS, PLACES, apart, tokens=8), together)
    back = rows_of(model, TEXTS[::-1], PLACES[::-1], apart)
    for name, rows in together.gradients.items():
        expected = torch.cat([rows[2:4], rows[1:2], rows[:1]])
        torch.testing.assert_close(back.gradients[name], expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("split", [True, False])
def test_gradients_are_the_slopes_of_each_texts_loss(build, split):
    seed = secrets.randbelow(2**31)
    print("seed", seed)
    torch.manual_seed(seed)
    model = build("llama").double()
    found = rows_of(model, TEXTS[:1], PLACES[:1], Passes(model, split=split, split_tokens=1))
    name = output_projections(model, range)[1]
    module = model.get_submodule(name)
    direction = torch.randn(found.gradients[name].shape[1], dtype=torch.float64)

    def loss(step):
        def hook(_, args, output):
            moved = output.clone()
            moved[:, PLACES[0][0]] += step * direction
            return moved

        handle = module.register_forward_hook(hook)
        rows = rows_of(model, TEXTS[:1], PLACES[:1], Passes(model, split=False), cut=False)
        handle.remove()
        return float(rows.losses.double().sum())

    step = 1e-2
    slope = (loss(step) - loss(-step)) / (2 * step)
    expected = float(found.gradients[name][0].double() @ direction)
    assert slope == pytest.approx(expected, rel=2e-2, abs=1e-4)
