"""A text file as runs of tokens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from ultraedit.errors import InputError

_CHUNK = 1 << 16


def windows(
    path: str | Path, tokenizer: PreTrainedTokenizerBase, width: int, limit: int
) -> Iterator[list[int]]:
    """Non-overlapping runs of at most `width` tokens of a text file, read piece by piece.

    Raises:
        InputError: no such file, not UTF-8, or fewer than two tokens in it.
    """
    pending: list[int] = []
    given = 0
    try:
        with open(path, encoding="utf-8") as file:
            # Whole lines, so that no token is cut where one piece ends.
            while given < limit and (lines := file.readlines(_CHUNK)):
                pending += tokenizer("".join(lines), add_special_tokens=False)["input_ids"]
                while len(pending) >= width and given < limit:
                    take = min(width, limit - given)
                    yield pending[:take]
                    pending, given = pending[take:], given + take
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise InputError(f"{path} cannot be read: {reason}") from None
    if len(pending) >= 2 and given < limit:
        yield pending[: limit - given]
    elif not given:
        raise InputError(f"{path} holds too little text")
