import pytest
import torch
from torch import nn

from ultraedit.encoding.batching import collate
from ultraedit.encoding.tokenise import Encoded
from ultraedit.forward.forward import forward
from ultraedit.forward.positions import Spots, moved, recorded
from ultraedit.models.presets import published_modules

TEXTS = [Encoded((1, 5, 9, 11), (7, 8), 2), Encoded((1, 30), (31,), 1), Encoded((1, 6, 7), (9,), 1)]
PLACES = [2, 1, 0]


@torch.no_grad()
def seen_alone(model, module, text, place):
    batch = collate([text], [0], "cpu", 0)
    with recorded({"m": module}, Spots.of(batch, [place])) as seen:
        forward(model, batch)
    return seen["m"]


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right", "both"])
def test_a_token_is_found_whatever_the_padding(build, architecture, side):
    model = build(architecture)
    module = model.get_submodule(published_modules(model)[0])
    batch = collate([TEXTS[2], TEXTS[0], TEXTS[1]], [2, 0, 1], "cpu", 0, side)
    with recorded({"m": module}, Spots.of(batch, PLACES)) as seen:
        forward(model, batch)
    for row, number in enumerate((2, 0, 1)):
        own = seen_alone(model, module, TEXTS[number], PLACES[number])
        for part in (0, 1):
            torch.testing.assert_close(seen["m"][part][row], own[part][0], rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_a_mask_names_all_its_tokens(build):
    model = build("llama")
    module = model.get_submodule(published_modules(model)[0])
    batch = collate(TEXTS, [0, 1, 2], "cpu", 0)
    with recorded({"m": module}, Spots.masked(batch.attention_mask.bool())) as seen:
        forward(model, batch)
    assert len(seen["m"][0]) == sum(len(text.ids) - 1 for text in TEXTS)
    own = seen_alone(model, module, TEXTS[1], 1)
    torch.testing.assert_close(seen["m"][0][6:7], own[0], rtol=1e-4, atol=1e-5)


def test_what_is_added_is_added_there_and_nowhere_else():
    """Also where texts are flattened before the module, and where it returns several things."""

    class Several(nn.Module):
        def forward(self, hidden):
            return 2 * hidden, "rest"

    batch = collate(TEXTS, [0, 1, 2], "cpu", 0)
    spots = Spots.of(batch, PLACES)
    change = torch.randn(3, 4, requires_grad=True)
    hidden = torch.randn(3, batch.width, 4)
    expected = 2 * hidden.clone()
    for row, place in enumerate(PLACES):
        expected[row, place] += change.detach()[row]
    several = Several()
    with moved(several, spots, change):
        found, rest = several(hidden)
    assert rest == "rest"
    torch.testing.assert_close(found, expected)
    found[0].sum().backward()
    assert torch.equal(change.grad[0], torch.ones(4))
    assert not change.grad[1:].any()
    double = nn.Linear(4, 4, bias=False)
    nn.init.eye_(double.weight)
    with moved(double, spots, change):
        flat = double(2 * hidden.reshape(-1, 4))
    torch.testing.assert_close(flat.reshape(hidden.shape), expected)
    torch.testing.assert_close(several(hidden)[0], 2 * hidden)
