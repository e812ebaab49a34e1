"""Whether a free answer is, or mentions, an accepted one."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

_ARTICLES = {"a", "an", "the"}
# What sentences put around words; signs that belong to names (C++, -5) stay.
_PUNCTUATION = ".,;:!?\"'()[]{}«»“”‘’„…。、，！？：；「」『』（）"
_POSSESSIVE = re.compile(r"['’]s(?!\S)")


def normalise_answer(text: str) -> str:
    """Text as compared in exact match: case, articles, and outer punctuation do not count."""
    words = unicodedata.normalize("NFKC", text).casefold().split()
    bare = (word.strip(_PUNCTUATION) for word in words)
    kept = [word for word in bare if word and word not in _ARTICLES]
    return " ".join(kept) or text.strip()


def matches(text: str, accepted: Sequence[str]) -> bool:
    """Whether `text` is one of the accepted answers, normalised, or its first sentence is.

    Plain text goes on after its answer: `Paris. It lies on the Seine` answers with Paris, and
    `Paris Saint-Germain` does not.
    """
    given = normalise_answer(text)
    for answer in accepted:
        wanted = normalise_answer(answer)
        if given == wanted or normalise_answer(_first_sentence(text, answer)) == wanted:
            return True
    return False


def mentions(text: str, accepted: Sequence[str]) -> bool:
    """Whether the first sentence of `text` has an accepted answer in it, as whole words.

    A possessive counts as its name: `Jane Austen's Emma` mentions Jane Austen.
    """
    for answer in accepted:
        first = normalise_answer(_first_sentence(text, answer))
        wanted = f" {normalise_answer(answer)} "
        if wanted in f" {first} " or wanted in f" {_POSSESSIVE.sub('', first)} ":
            return True
    return False


def _first_sentence(text: str, answer: str) -> str:
    """`text` up to the first full stop that cannot be part of `answer`."""
    stops = [
        found.start()
        for found in re.finditer(r"[.!?](?=\s|$)", text)
        if found.start() >= len(answer.strip(_PUNCTUATION))
    ]
    return text[: stops[0]] if stops else text
