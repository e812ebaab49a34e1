"""Where every setting of the method comes from: each is one function, or one number with a why.

The numbers were chosen on SmolLM2-135M with CounterFact records; docs/quality.md has what was
tried.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

# Of the mean of the diagonal of E[h h^T], added to all of it: directions that no anchor uses cost
# little, not nothing.
FLOOR = 3e-2
# The share of the metric that names have; the rest is that of all tokens of ordinary text.
NAMES_SHARE = 0.5
# Of what a text's first token gives, beside names and text that weigh one together. Without it 100
# edits of SmolLM2 leave a locality of .1 instead of .8: what is written elsewhere moves the
# token that all others attend to where they have nothing to look for.
FIRST_WEIGHT = 1.0
# Past keys that the memory holds at most: more would drown the anchors, and float32 with them.
MOST_KEYS = 8192
# What is left of the memory when it was full: fading takes an inversion.
KEPT = 0.75
# Of the way to its goal that a pass takes an answer, if its lead were linear in the weights.
STEP = 0.8
# In nats above the lead that counts as learned: other phrasings get more of it.
BEYOND = 3.0
# Of one past key, where the anchors weigh one in all.
KEY_WEIGHT = 0.003
# The middle of the blocks that share an edit, as a share of the depth: there a model reads out of
# a name what it knows of it. Late blocks lose their locality as soon as edits come together.
MIDDLE = 0.2
# Input features of all edited modules together, where it takes no more than this share of all
# blocks. The more there are, the less each moves; and what an edit moves elsewhere adds up less
# from block to block than what it moves at its own subject.
FEATURES, MOST_BLOCKS = 24_000, 0.55
# Of models with few blocks or many features, so many all the same.
FEWEST = 6
# Tokens of the beginnings that the model draws, in turn (arXiv:2202.05262, section 3.1).
LENGTHS = (5, 8)
# The probability that an answer's least likely token is to have behind a beginning.
BEHIND = 0.9
# The probability that is asked of the end of an answer. To most models an answer that ends after
# a few tokens is a surprise of ten nats, so that its end would take more than the answer itself.
END = 0.5
# A text moves what a module gives at its token by at most this share of its usual length, in one
# pass. A gradient that is almost nothing asks for steps without end.
REACH = 0.2
# From this share of the passes on, an answer that its subject does not carry is written at its own
# tokens: one whose loss has not come down to this share of what it was.
LAST_TOKEN_FROM, CARRIED = 0.4, 0.7
# Tokens of one text that the model draws for the metric of ordinary text.
ANCHOR_TOKENS = 32


def anchor_texts(widest: int) -> int:
    """How many names, for inputs of at most `widest` features; a sixteenth as many texts.

    A second moment of d features needs more than d rows to be more than noise.
    """
    return max(512, min(4 * widest // 3, 8192))


def forgetting(keys: float) -> float:
    """The share of the memory that stays when it holds `keys`: all of it while it has room."""
    return 1.0 if keys <= MOST_KEYS else KEPT * MOST_KEYS / keys


def goal(threshold: float) -> float:
    """The lead that an answer token is taken towards, for the probability that is asked of it."""
    return math.log(threshold / (1 - threshold)) + BEYOND


def edited_blocks(count: int, inputs: int) -> Sequence[int]:
    """Which of `count` blocks have their output projection edited: early ones.

    Args:
        count: Of all blocks.
        inputs: Input features of a projection.
    """
    edited = min(math.ceil(FEATURES / inputs), round(MOST_BLOCKS * count))
    edited = min(max(edited, FEWEST), count)
    # Not the first: its inputs say which token there is, and little of what stands before it.
    first = min(max(round(MIDDLE * count - edited / 2), 1), count - edited)
    return range(first, first + edited)
