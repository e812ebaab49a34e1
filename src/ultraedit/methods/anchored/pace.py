"""How far a pass goes: leads are linear in the weights only nearby."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ultraedit.methods.anchored.derive import ENOUGH, SHORTER


@dataclass
class Pace:
    """The steps of one turn.

    Attributes:
        first: The share of the way that its first pass takes every answer token.
        share: That of the last pass.
        undone: What was missing before the last pass, in nats over all that was not learned.
        cost: Of the first pass, as the metric has it: a square.
    """

    first: float
    share: float | None = None
    undone: float = 0.0
    cost: float | None = None

    def next_share(self, undone: float) -> float:
        """The share of the way of the next pass, by how far the last one came.

        Where it came less than half as far as it should have, the next is shorter; where it
        did, the step grows back to what it was at first.

        Args:
            undone: What is missing now.
        """
        if self.share is None:
            self.share = self.first
        else:
            expected = self.share * self.undone
            came = (self.undone - undone) / expected if expected > 0 else 1.0
            longer = min(self.first, self.share / SHORTER)
            self.share = self.share * SHORTER if came < ENOUGH else longer
        self.undone = undone
        return self.share

    def held_back(self, cost: float) -> float:
        """The share of a shift of this cost that is taken: none goes further than the first.

        A lead that cannot rise any more, as that of a model whose logits are bounded, has hardly
        a gradient left, and a line through it leads far away.
        """
        self.cost = cost if self.cost is None else self.cost
        return min(1.0, math.sqrt(self.cost / cost)) if cost > 0 else 1.0
