"""Where every setting of the method comes from: each is one function, or one number with a why.

The numbers were chosen on the embedded model, 400 edits in turns of 100; most of them were
not swept.
"""

from __future__ import annotations

# Of the mean of C0's diagonal, added to all of it: directions that no anchor uses are cheap, not
# free.
FLOOR = 1e-3
# Of the mean of E[m m^T], added to all of it: an output that the anchors say nothing about may
# move ten times as far as an average one, no more.
DAMPING = 0.1
# Past keys that the memory holds at most. Together they weigh some hundreds of times what the
# anchors do, whatever the width: more would drown the anchors, and float32 with them.
MOST_KEYS = 8192
# What is left of the memory when it was full: fading takes an inversion.
KEPT = 0.75
# Of the turn's loss, as a line would have it: smaller steps keep more and take more passes.
FIRST_PASS = 0.5
# A later step is at most so many times the first one of its turn.
LONGEST = 16.0
# Of what all rows gain alone, what they gain together counts at least this much.
LEAST_GAIN = 0.01
# Of one past key, where the anchors weigh one in all.
KEY_WEIGHT = 0.1
# Tokens of one anchor: a sentence or two, so that all kinds of beginnings are among them.
ANCHOR_TOKENS = 16
# An anchor's token has moved when its loss rose by this much, in nats, and is held to if the
# model was sure of it before: of what it would draw at random there is nothing to keep.
MOVED, SURE = 0.02, 0.7
# An anchor this like a turn's own key, as the cosine under the metric, speaks of the edited fact.
SAME = 0.5


def anchor_texts(widest: int) -> int:
    """How many texts the model draws, for inputs of at most `widest` features.

    A second moment of d features needs several times d tokens to be more than noise: 32 times,
    and for wide models what 65,536 tokens give, which is a matter of seconds on their devices.
    """
    return max(512, min(32 * widest, 65536) // ANCHOR_TOKENS)


def rehearsed(edits: int) -> int:
    """How many anchors are watched in a turn of that many edits, and brought back if they move.

    As many as edits, and a few in any case, since one edit moves them too. Every token of an
    anchor is a row, so a pass has about four times the rows it would have without them.
    """
    return max(16, edits)


def forgetting(keys: float) -> float:
    """The share of the memory that stays when it holds `keys`: all of it while it has room."""
    return 1.0 if keys <= MOST_KEYS else KEPT * MOST_KEYS / keys


def next_step(share: float, loss: float, gain: float, first: float | None) -> float:
    """The step of a pass: it takes `share` of the loss that is left, as a line has it.

    Near the end the gradient falls as the loss does and the gain as its square, so the step
    grows; without that, the last tokens would take as many passes as all others.

    Args:
        share: Of the loss.
        loss: Of the edits that are not learned.
        gain: By how much their loss falls at step one.
        first: The first step of the turn.
    """
    step = share * loss / gain
    return step if first is None else min(max(step, first), LONGEST * first)
