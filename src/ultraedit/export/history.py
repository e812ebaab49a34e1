"""The factors of all turns' shifts, as far as they are low-rank and fewer than a weight's rank."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from ultraedit.linalg.shift import LowRank, Shift

Factors = tuple[Tensor, Tensor]


def stacked(
    shifts: Iterable[Mapping[str, Shift]] | None, limits: Mapping[str, int]
) -> dict[str, Factors]:
    """Put the factors of every module's shifts below each other.

    Args:
        shifts: By module name, in the order applied; None where they are not all known.
        limits: Module -> the rows from which on a factorisation saves nothing.

    Returns:
        Module -> its (n, d) and (n, e) factors; modules that have another kind of shift,
        none, or too many rows are not in it.
    """
    parts: dict[str, list[LowRank]] = {name: [] for name in limits}
    for turn in shifts or ():
        for name, shift in turn.items():
            if name not in parts:
                continue
            held = sum(len(part.left) for part in parts[name])
            if isinstance(shift, LowRank) and held + len(shift.left) < limits[name]:
                parts[name].append(shift)
            else:
                del parts[name]
        if not parts:
            break
    return {name: _stack(held) for name, held in parts.items() if held}


def _stack(parts: list[LowRank]) -> Factors:
    return (
        torch.cat([part.left.detach().cpu() for part in parts]),
        torch.cat([part.right.detach().cpu() for part in parts]),
    )
