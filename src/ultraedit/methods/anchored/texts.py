"""The anchors as texts: what the model draws itself, or a file of the user's."""

from __future__ import annotations

from ultraedit.encoding.tokenise import Encoded, beginning
from ultraedit.encoding.windows import windows
from ultraedit.methods.anchored.derive import ANCHOR_TOKENS
from ultraedit.methods.base import Workbench

SEED = 3
# Texts that are drawn side by side.
SAMPLED = 512
# How many times the tokens that are needed are read of a file at most.
READ = 16


def drawn(bench: Workbench, count: int) -> list[Encoded]:
    """`count` texts from the model itself; the same ones every time."""
    return [
        text
        for first in range(0, count, SAMPLED)
        for text in bench.sample(min(SAMPLED, count - first), ANCHOR_TOKENS, SEED + first)
    ]


def of_file(bench: Workbench, path: str, count: int) -> list[Encoded]:
    """At most `count` pieces of a text file, spread evenly over what is read of it.

    Raises:
        InputError: no such file, not UTF-8, or fewer than two tokens in it.
    """
    tokenizer = bench.tokenizer
    pieces = list(windows(path, tokenizer, ANCHOR_TOKENS, READ * count * ANCHOR_TOKENS))
    if len(pieces) > count:
        pieces = [pieces[place * len(pieces) // count] for place in range(count)]
    start = (beginning(tokenizer),)
    return [Encoded(start, tuple(piece), len(piece)) for piece in pieces]
