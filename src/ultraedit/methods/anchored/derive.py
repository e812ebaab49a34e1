"""Where every setting of the method comes from: each is one function, or one number with a why.

The numbers were chosen on the embedded model and on a made-up world, 400 to 2,000 edits in turns
of 100 (docs/quality.md has what was tried); several were not swept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

# Of the mean of the diagonal of E[h h^T], added to all of it: directions that no anchor uses are
# cheap, not free.
FLOOR = 1e-3
# Of the mean of E[m m^T], added to all of it: an output that the anchors say nothing about may
# move ten times as far as an average one, no more.
DAMPING = 0.1
# Past keys that the memory holds at most. Together they weigh some twenty-five times what the
# anchors do, whatever the width: more would drown the anchors, and float32 with them.
MOST_KEYS = 8192
# What is left of the memory when it was full: fading takes an inversion.
KEPT = 0.75
# Of the way to its goal: leads are not linear in the weights, and smaller steps keep more.
STEP = 0.5
# In nats above the lead that counts as learned: fewer passes, and other phrasings get more of it.
BEYOND = 1.0
# Of one past key, where the anchors weigh one in all: more keeps earlier edits better and
# everything else worse.
KEY_WEIGHT = 0.003
# Blocks that share an edit.
EDITED = 6
# How far a pass has to come of what it should have, and what its step is multiplied by if not;
# see `Pace`.
ENOUGH, SHORTER = 0.5, 0.5
# Tokens of one anchor: a sentence or two, so that all kinds of beginnings are among them.
ANCHOR_TOKENS = 16
# An anchor's token has moved when its lead fell by this much, in nats.
MOVED = 0.5
# An anchor's token this like a turn's own key, as the absolute cosine of their whitened keys,
# speaks of the edited fact. With whole keys, .6 finds six in seven of the tokens that say what an
# edit changes in a made-up world, two in three on the embedded model, and about three times as
# many that do not; .8 finds seven and six in ten, and fewer that do not than that do. What is
# missed may be taken back later.
SAME = 0.6
# Dimensions in which keys are whitened, and in which they are then compared: a cosine is right to
# about a tenth.
WHITENED, SKETCH = 2048, 128


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


def goal(threshold: float) -> float:
    """The lead that an answer token is taken towards, for the probability that is asked of it."""
    return math.log(threshold / (1 - threshold)) + BEYOND


def edited_blocks(count: int) -> Sequence[int]:
    """Which of `count` blocks have their output projection edited.

    Many blocks share an edit with less harm than few: at six blocks all of them keep more than
    the last four, at half as much time again. Every one costs two matrices of its inner width
    squared, so a deeper model has `EDITED`, spread evenly over its last two thirds, where facts
    are recalled; that has not been measured.
    """
    first = min(count // 3, max(count - EDITED, 0))
    most = min(EDITED, count - first)
    return [count - 1 - round(n * (count - 1 - first) / max(most - 1, 1)) for n in range(most)]
