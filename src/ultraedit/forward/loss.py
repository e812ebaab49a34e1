"""Cross-entropy of answer tokens, a few rows of logits at a time.

In float32 the logits of a turn are larger than anything else a pass makes, and fresh memory
costs more than the arithmetic: nothing of their size is made but the gradient.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

# Logits that are held in float32 at once: 8 MiB.
CHUNK = 2**21


def token_losses(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """How each label fares.

    Args:
        logits: (n, vocabulary), of any dtype.
        labels: (n,) int64.

    Returns:
        (n,) float32 cross-entropy, and (n,) bool, whether the label is the likeliest token.
    """
    losses, correct = (
        logits.new_empty(len(labels), dtype=torch.float32),
        labels.new_empty(len(labels), dtype=torch.bool),
    )
    for rows in _chunks(logits):
        losses[rows] = _log_probabilities(logits[rows], labels[rows])[1]
        correct[rows] = logits[rows].argmax(-1) == labels[rows]
    return losses, correct


def loss_gradient(logits: Tensor, labels: Tensor, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """Cross-entropy, and the gradient of its sum with respect to the logits.

    Args:
        logits: (n, vocabulary), of any dtype.
        labels: (n,) int64.
        scale: What the gradient is multiplied by.

    Returns:
        (n,) float32, not scaled; and (n, vocabulary) softmax(logits) - onehot(labels), times
        `scale`, computed in float32 and rounded to the dtype of the logits.
    """
    logits = logits.detach()
    gradient = torch.empty_like(logits)
    losses = logits.new_empty(len(labels), dtype=torch.float32)
    for rows in _chunks(logits):
        log_probabilities, losses[rows] = _log_probabilities(logits[rows], labels[rows])
        change = log_probabilities.exp_()
        change[torch.arange(len(change), device=change.device), labels[rows]] -= 1
        gradient[rows] = change if scale == 1 else change.mul_(scale)
    return losses, gradient


def lead_gradient(logits: Tensor, labels: Tensor, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """How the lead of each label over all other tokens depends on the logits.

    The lead is log p - log(1 - p). Where a model is all but certain there is hardly a gradient
    of its loss left, while the lead still says what would lose the answer, or win it.

    Args:
        logits: (n, vocabulary), of any dtype.
        labels: (n,) int64.
        scale: What the gradient is multiplied by.

    Returns:
        (n,) float32, -log p of the label; and (n, vocabulary), in the dtype of the logits, the
        gradient of the sum of leads times `scale`.
    """
    logits = logits.detach()
    gradient = torch.empty_like(logits)
    losses = logits.new_empty(len(labels), dtype=torch.float32)
    for rows in _chunks(logits):
        # A copy also of float32: it is written into.
        part = logits[rows].to(torch.float32, copy=True)
        losses[rows] = _log_probabilities(part, labels[rows])[1]
        place = torch.arange(len(part), device=part.device)
        part[place, labels[rows]] = -torch.inf
        change = torch.softmax(part, -1).neg_()
        change[place, labels[rows]] = 1
        gradient[rows] = change if scale == 1 else change.mul_(scale)
    return losses, gradient


def choice_lead_gradient(
    logits: Tensor, labels: Tensor, scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """`lead_gradient` of the likeliest tokens, whatever the labels."""
    return lead_gradient(logits, logits.argmax(-1), scale)


def _log_probabilities(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    found = torch.log_softmax(logits.float(), -1)
    return found, -found.gather(1, labels[:, None])[:, 0]


def _chunks(logits: Tensor) -> Iterator[slice]:
    rows = max(1, CHUNK // logits.shape[1])
    for first in range(0, len(logits), rows):
        yield slice(first, first + rows)
