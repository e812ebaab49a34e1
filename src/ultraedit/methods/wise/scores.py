"""How strongly a query activates a side memory, and the margins that training keeps.

arXiv:2405.14768, equations 2 and 5.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Margins:
    """Of activation scores.

    Attributes:
        outside: A text that is none of the edits' business is to score no more.
        inside: An edit's prompt is to score no less.
        between: And by so much more than any other text.
    """

    outside: float
    inside: float
    between: float


def scores(inputs: Tensor, text: Tensor, count: int, delta: Tensor) -> Tensor:
    """(count,) activation scores: the mean over a text's tokens of |a (W' - W)|.

    Args:
        inputs: (n, d) the module's inputs a at the tokens of all texts.
        text: (n,) int64, whose token each is.
        count: How many texts.
        delta: (d, e) (W' - W)^T.
    """
    moved = inputs @ delta.to(inputs.dtype)
    lengths = moved.to(torch.promote_types(moved.dtype, torch.float32)).norm(dim=1)
    sums = lengths.new_zeros(count).index_add(0, text, lengths)
    return sums / torch.bincount(text, minlength=count).clamp(min=1)


def margin_loss(inside: Tensor, outside: Tensor, margins: Margins) -> Tensor:
    """relu(s_out - alpha) + relu(beta - s_in) + relu(s_out - s_in + gamma).

    Each is the mean over all texts, or all pairs of texts, of its kind.

    Args:
        inside: (n,) scores of edits' prompts.
        outside: (m,) scores of other texts; may be none.
        margins: beta, alpha and gamma.
    """
    loss = torch.relu(margins.inside - inside).mean()
    if len(outside):
        loss = loss + torch.relu(outside - margins.outside).mean()
        pairs = outside[None, :] - inside[:, None] + margins.between
        loss = loss + torch.relu(pairs).mean()
    return loss
