import pytest
import torch

from ultraedit.methods.routing import asked
from ultraedit.methods.wise.scores import Margins, margin_loss, scores


def test_scores_are_means_of_lengths(generator):
    """|a (W' - W)| token by token, in float64 from the two matrices themselves."""
    w, copy = (torch.randn(6, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    inputs = torch.randn(9, 6, generator=generator, dtype=torch.float64)
    text = torch.tensor([0, 0, 1, 1, 1, 1, 3, 3, 3])
    found = scores(inputs, text, 4, copy - w)
    for number in (0, 1, 3):
        lengths = [float((a @ copy - a @ w).norm()) for a in inputs[text == number]]
        assert float(found[number]) == pytest.approx(sum(lengths) / len(lengths), rel=1e-6)
    assert found[2] == 0


def test_the_margins_by_hand():
    margins = Margins(outside=5.0, inside=20.0, between=10.0)
    inside, outside = torch.tensor([25.0, 14.0]), torch.tensor([4.0, 8.0])
    # relu(20 - s_in): 0 and 6; relu(s_out - 5): 0 and 3; pairs: 4-25+10, 8-25+10, 4-14+10, 8-14+10.
    expected = (0 + 6) / 2 + (0 + 3) / 2 + (0 + 0 + 0 + 4) / 4
    assert float(margin_loss(inside, outside, margins)) == pytest.approx(expected)
    assert float(margin_loss(inside, torch.empty(0), margins)) == 3.0
    assert float(margin_loss(torch.tensor([30.0]), torch.tensor([1.0]), margins)) == 0


def test_their_slope_is_that_of_finite_differences(generator):
    inputs = torch.randn(6, 5, generator=generator, dtype=torch.float64)
    text = torch.tensor([0, 0, 1, 1, 2, 2])
    # All three always matter: a hinge has no slope where it bends.
    margins = Margins(1e-6, 1e3, 1e3)

    def loss(delta):
        found = scores(inputs, text, 3, delta)
        return margin_loss(found[:2], found[2:], margins)

    delta = torch.randn(5, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loss, delta, atol=1e-6, eps=1e-5)


def test_what_is_asked_is_the_prompt_but_for_its_first_token():
    mask = torch.tensor([[0, 1, 1, 1, 1], [1, 1, 1, 1, 1], [0, 0, 0, 1, 1]]).bool()
    found = asked(mask, torch.tensor([3, 2, 3]))
    assert found.int().tolist() == [[0, 0, 1, 1, 0], [0, 1, 1, 0, 0], [0, 0, 0, 1, 0]]
