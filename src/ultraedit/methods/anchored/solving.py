"""One pass of the method: which shifts lower the losses that are to fall, at the least price."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ultraedit.encoding.tokenise import Encoded
from ultraedit.forward.spot_rows import SpotRows
from ultraedit.linalg.metric import directions, multipliers, summed
from ultraedit.linalg.shift import LowRank
from ultraedit.methods.anchored import defaults
from ultraedit.methods.anchored.contexts import Form
from ultraedit.methods.anchored.state import AnchoredState

# Losses below this are all the same: in float32 a lead beyond 14 jumps by more than half a nat.
TINY = 1e-5


def falls_wanted(
    rows: SpotRows, chosen: Sequence[Form], threshold: float, share: float
) -> tuple[Tensor, Tensor]:
    """By how much losses are to fall in a pass.

    Args:
        rows: Of n texts.
        chosen: These texts.
        threshold: The probability that is asked of an edit's own text.
        share: Of what a lead is short of its goal, what is to be won in this pass.

    Returns:
        (n,) float32 by how much each text's loss is to fall, and (n,) bool: learned.
    """
    text, losses = rows.text, rows.losses
    asked = torch.tensor([one.asked for one in chosen])[text]
    ends = is_end([one.text for one in chosen])
    asked[ends] = asked[ends].clamp(max=defaults.END)
    # What is no number has not been learned.
    short = (~(losses <= -asked.log())).to(torch.int64)
    learned = torch.zeros(len(chosen), dtype=torch.int64).index_add_(0, text, short) == 0
    goals = torch.full_like(losses, defaults.goal(threshold))
    goals[ends] = defaults.goal(min(defaults.END, threshold))
    missing = (goals - log_odds(losses)).clamp(min=0) * share
    # A text's loss falls by its tokens' leads times what each has left to win.
    falls = losses.new_zeros(len(chosen)).index_add_(0, text, missing * -torch.expm1(-losses))
    return falls, learned


def solved(
    rows: SpotRows,
    open_: Tensor,
    falls: Tensor,
    owners: Tensor,
    state: AnchoredState,
    ridge: float,
) -> tuple[dict[str, LowRank], tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """The shifts of least cost that lower every open text's loss as wanted, to first order.

    Args:
        rows: Of n texts.
        open_: (n,) bool, the texts that count.
        falls: (n,) float32, by how much each is to fall.
        owners: (n,) int64, the edit of each text.
        state: The metrics.
        ridge: See `linalg.metric.multipliers`.

    Returns:
        Shifts by module, and H M^-1 and H M^-1 H^T of every module's open rows.
    """
    sides: dict[str, tuple[Tensor, Tensor]] = {}
    systems: dict[str, Tensor] = {}
    chosen = open_[rows.row_text]
    _, group = torch.unique(rows.row_text[chosen], return_inverse=True)
    count = int(open_.sum())
    kernel = torch.zeros(count, count, dtype=torch.float64)
    reach = torch.zeros(count, dtype=torch.float64)
    for name, inputs in rows.inputs.items():
        here = chosen.to(inputs.device)
        keys = inputs[here]
        gradients = rows.gradients[name].to(inputs.device)[here]
        found = directions(keys, gradients, state.memories[name].inverse)
        kernel += summed(summed(found.kernel.cpu(), group).T, group)
        moved = found.system.diagonal() * gradients.norm(dim=1) / max(state.sizes[name], TINY)
        reach += summed(moved.double().square().cpu(), group)
        sides[name], systems[name] = (found.left, gradients), found.system
    most = torch.bincount(group).double().mul(len(sides)).sqrt() * defaults.REACH
    amounts = multipliers(kernel, falls[open_], ridge, most / reach.sqrt().clamp(min=TINY**2))[
        group
    ]
    index = owners[rows.row_text[chosen]]
    shifts = {
        name: LowRank(
            left, right * -amounts.to(right.device, right.dtype)[:, None], index.to(left.device)
        )
        for name, (left, right) in sides.items()
    }
    return shifts, ({name: left for name, (left, _) in sides.items()}, systems)


def is_end(texts: Sequence[Encoded]) -> Tensor:
    """(tokens,) bool of all target tokens: whether it is an end of sequence that was appended."""
    flags = [place >= text.scored for text in texts for place in range(len(text.target))]
    return torch.tensor(flags)


def log_odds(losses: Tensor) -> Tensor:
    """log p - log(1 - p) of tokens with these -log p; finite."""
    return -losses - torch.log(-torch.expm1(-losses.clamp(min=TINY)))
