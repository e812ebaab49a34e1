"""Text that a method measures the model on: what the model draws itself, or a user's file."""

from __future__ import annotations

from ultraedit.encoding.tokenise import Encoded, beginning
from ultraedit.encoding.windows import windows
from ultraedit.methods.base import Workbench
from ultraedit.progress import Advance

SEED = 3
# Texts that are drawn side by side.
SAMPLED = 512
# How many times the tokens that are needed are read of a file at most.
READ = 16


def drawn(workbench: Workbench, count: int, tokens: int) -> list[Encoded]:
    """`count` texts of at most `tokens` from the model itself; the same ones every time."""
    parts = range(-(-count // SAMPLED))
    sizes = (min(SAMPLED, count - part * SAMPLED) for part in parts)
    with workbench.progress("drawing text", len(parts) * tokens) as advance:
        return [
            text
            for part, size in zip(parts, sizes, strict=True)
            for text in drawn_part(workbench, part, size, tokens, advance)
        ]


def drawn_part(
    workbench: Workbench, part: int, size: int, tokens: int, advance: Advance | None = None
) -> list[Encoded]:
    """The part with this number of what the model draws, `size` texts, `SAMPLED` at most."""
    return workbench.sample(size, tokens, SEED + part * SAMPLED, advance)


def of_file(workbench: Workbench, path: str, count: int, tokens: int) -> list[Encoded]:
    """At most `count` pieces of a text file, spread evenly over what is read of it.

    Raises:
        InputError: no such file, not UTF-8, or fewer than two tokens in it.
    """
    tokenizer = workbench.tokenizer
    pieces = list(windows(path, tokenizer, tokens, READ * count * tokens))
    if len(pieces) > count:
        pieces = [pieces[place * len(pieces) // count] for place in range(count)]
    start = (beginning(tokenizer),)
    return [Encoded(start, tuple(piece), len(piece)) for piece in pieces]
