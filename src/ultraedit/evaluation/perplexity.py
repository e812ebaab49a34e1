"""Perplexity of a model on a text file."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ultraedit.encoding.windows import windows
from ultraedit.forward.generate import context_length

WINDOW = 512


@torch.no_grad()
def perplexity(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    path: str | Path,
    *,
    device: torch.device,
    window: int = WINDOW,
    limit: int = 100_000,
) -> float | None:
    """exp of the mean next-token loss over the first `limit` tokens of a file.

    Every window begins with beginning-of-sequence where the tokenizer has one, and is
    scored by itself, so the figure is a little higher than with a sliding context. None
    where the model's losses are not finite.
    """
    bos = tokenizer.bos_token_id
    window = min(window, context_length(model) or window)
    total, count = 0.0, 0
    for ids in windows(path, tokenizer, window - 1, limit):
        full = torch.tensor([ids if bos is None else [bos, *ids]], device=device)
        if full.shape[1] < 2:
            continue
        logits = model(input_ids=full, use_cache=False).logits[0, :-1].float()
        total += float(F.cross_entropy(logits, full[0, 1:].to(logits.device), reduction="sum"))
        count += full.shape[1] - 1
    # A model driven out of range has no perplexity; JSON has no word for it either.
    return math.exp(total / count) if total / count < 700 else None
