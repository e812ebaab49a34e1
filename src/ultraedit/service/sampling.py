"""The next token of a generation, from the logits of its last position."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """How a generation goes on.

    Attributes:
        max_tokens: Where it ends at the latest.
        temperature: 0 takes the likeliest token.
        top_p: Only the likeliest tokens that reach this probability together are drawn from.
        seed: Makes the draw repeatable; None draws anew every time.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None

    def generator(self) -> torch.Generator | None:
        """What the tokens are drawn with; None where nothing is drawn."""
        if self.temperature == 0:
            return None
        generator = torch.Generator()
        if self.seed is None:
            generator.seed()
        else:
            generator.manual_seed(self.seed)
        return generator


@dataclass(frozen=True)
class Token:
    """A token and how likely the model found it.

    Attributes:
        id: In the vocabulary.
        logprob: Natural logarithm of its probability at temperature 1; nan for the first of a text.
        top: The likeliest tokens at its place with theirs, where they were asked for.
    """

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


def choose(logits: Tensor, sampling: Sampling, generator: torch.Generator | None) -> int:
    """The id of the next token.

    Args:
        logits: (vocabulary,) float32 on the CPU.
        sampling: How it is chosen.
        generator: Of `sampling`.
    """
    if generator is None:
        return int(logits.argmax())
    chances = torch.softmax(logits.double() / sampling.temperature, 0)
    if sampling.top_p < 1:
        ordered, order = chances.sort(descending=True)
        # A token counts if those before it do not reach top_p: the likeliest always does.
        ordered[ordered.cumsum(0) - ordered >= sampling.top_p] = 0
        return int(order[torch.multinomial(ordered, 1, generator=generator)])
    return int(torch.multinomial(chances, 1, generator=generator))


def tokens(logits: Tensor, ids: Tensor, top: int) -> list[Token]:
    """Ids with their probabilities.

    Args:
        logits: (n, vocabulary) float32.
        ids: (n,) int64, the token at each place.
        top: How many of the likeliest are named beside it.
    """
    normaliser = logits.logsumexp(1)
    own = (logits.gather(1, ids[:, None])[:, 0] - normaliser).tolist()
    if not top:
        return [Token(i, value) for i, value in zip(ids.tolist(), own, strict=True)]
    values, places = logits.topk(min(top, logits.shape[1]), 1)
    likeliest = zip(places.tolist(), (values - normaliser[:, None]).tolist(), strict=True)
    return [
        Token(i, value, tuple(zip(names, chances, strict=True)))
        for i, value, (names, chances) in zip(ids.tolist(), own, likeliest, strict=True)
    ]
