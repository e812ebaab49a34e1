import pytest
import torch
from torch.nn import functional as F

from ultraedit.forward import loss
from ultraedit.forward.loss import choice_lead_gradient, lead_gradient, loss_gradient, token_losses

DTYPES = {torch.float64: 1e-6, torch.float32: 1e-6, torch.bfloat16: 1e-2, torch.float16: 1e-3}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("chunk", [1, 150, 2**21])
def test_losses_and_gradient_are_those_of_cross_entropy(generator, monkeypatch, dtype, chunk):
    """In chunks of one row, of a few, and of all; compared in float64."""
    monkeypatch.setattr(loss, "CHUNK", chunk)
    logits = (4 * torch.randn(7, 50, generator=generator)).to(dtype).requires_grad_()
    labels = torch.randint(0, 50, (7,), generator=generator)
    exact = logits.detach().double().requires_grad_()
    expected = F.cross_entropy(exact, labels, reduction="none")
    (slope,) = torch.autograd.grad(expected.sum(), exact)
    losses, gradient = loss_gradient(logits, labels, scale=4.0)
    assert losses.dtype == torch.float32
    assert gradient.dtype == dtype
    assert not gradient.requires_grad
    torch.testing.assert_close(losses.double(), expected.detach(), rtol=1e-5, atol=1e-6)
    near = {"rtol": DTYPES[dtype], "atol": DTYPES[dtype]}
    torch.testing.assert_close(gradient.double() / 4, slope, **near)
    again, correct = token_losses(logits.detach(), labels)
    assert torch.equal(again, losses)
    assert torch.equal(correct, exact.argmax(-1) == labels)


def test_logits_are_left_as_they_were(generator):
    logits = torch.randn(3, 9, generator=generator)
    before = logits.clone()
    loss_gradient(logits, torch.tensor([1, 2, 3]))
    lead_gradient(logits, torch.tensor([1, 2, 3]))
    token_losses(logits, torch.tensor([1, 2, 3]))
    assert torch.equal(logits, before)


def test_a_logit_that_is_not_finite_shows(generator):
    logits = torch.randn(2, 9, generator=generator)
    logits[1, 4] = float("nan")
    losses, gradient = loss_gradient(logits, torch.tensor([1, 2]))
    assert torch.isfinite(losses).tolist() == [True, False]
    assert not torch.isfinite(gradient[1]).any()


@pytest.mark.parametrize("chunk", [1, 2**21])
@pytest.mark.parametrize("chosen", [True, False])
def test_the_lead_of_a_token_and_its_gradient(generator, monkeypatch, chunk, chosen):
    monkeypatch.setattr(loss, "CHUNK", chunk)
    logits = (2 * torch.randn(6, 20, generator=generator)).double().requires_grad_()
    labels = torch.randint(20, (6,), generator=generator)
    tokens = logits.argmax(-1) if chosen else labels
    probabilities = logits.softmax(-1)[torch.arange(6), tokens]
    lead = probabilities.log() - (1 - probabilities).log()
    (slope,) = torch.autograd.grad(lead.sum(), logits)
    measure = choice_lead_gradient if chosen else lead_gradient
    losses, gradient = measure(logits, labels, scale=2.0)
    torch.testing.assert_close(losses.double(), -probabilities.log().detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient / 2, slope, rtol=1e-5, atol=1e-6)
