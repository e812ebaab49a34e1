"""Padded, length-bucketed batches whose composition does not change a row's result."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ultraedit.encoding.tokenise import Encoded

# `both` pads prompts on the left and answers on the right, so that all answers begin at one column.
PaddingSide = Literal["left", "right", "both"]

# What one more batch costs beside its tokens, in tokens: weights are read once a batch, and below
# some hundred tokens reading them takes longer than the products.
BATCH_OVERHEAD = 64


@dataclass(frozen=True)
class Query:
    """What is being asked of the model, for methods that route at inference.

    Attributes:
        prompt_end: (b,) int64, position of each row's last prompt token.
        attention_mask: (b, t) int64, 0 over padding.
    """

    prompt_end: Tensor
    attention_mask: Tensor


@dataclass(frozen=True)
class Batch:
    """Some encoded texts, padded to one length.

    Attributes:
        index: (b,) int64 on the CPU, each row's place in the sequence the batch is from.
        texts: The tokens of each row without padding.
        starts: Each row's first column that is no padding.
        input_ids: (b, t) int64.
        attention_mask: (b, t) int64, 0 over padding.
        position_ids: (b, t) int64, counted from each row's first real token.
        answer_mask: (b, t) bool, true where the NEXT token is one of the target.
        labels: (b, t) int64, the next token where `answer_mask`, else 0.
        scored_mask: (b, t) bool, the part of `answer_mask` that published metrics count.
        prompt_end: (b,) int64, position of the last prompt token.
        first_answer: The first column with an answer; before it are prompts alone.
    """

    index: Tensor
    texts: tuple[tuple[int, ...], ...]
    starts: tuple[int, ...]
    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    answer_mask: Tensor
    labels: Tensor
    scored_mask: Tensor
    prompt_end: Tensor
    first_answer: int

    @property
    def query(self) -> Query:
        return Query(self.prompt_end, self.attention_mask)

    @property
    def width(self) -> int:
        return self.input_ids.shape[1]

    @property
    def logits_to_keep(self) -> int:
        """How many final positions reach back to the first answer row."""
        return self.width - self.first_answer


def collate(
    texts: Sequence[Encoded],
    index: Sequence[int],
    device: torch.device | str,
    pad_id: int,
    side: PaddingSide = "right",
) -> Batch:
    """Pad `texts` to the longest of them."""
    # The last target token is predicted, never read: leaving it out saves a column.
    inputs = tuple(text.ids[:-1] for text in texts)
    widths = [_widths(text, side) for text in texts]
    before, after = (max(part) for part in zip(*widths, strict=True))
    width = before + after
    starts = tuple(before - own if side != "right" else 0 for own, _ in widths)
    answers = [start + len(text.prompt) - 1 for start, text in zip(starts, texts, strict=True)]
    shape = (len(texts), width)
    input_ids = torch.full(shape, pad_id)
    attention_mask, labels = (
        torch.zeros(shape, dtype=torch.long),
        torch.zeros(shape, dtype=torch.long),
    )
    answer_mask, scored_mask = (
        torch.zeros(shape, dtype=torch.bool),
        torch.zeros(shape, dtype=torch.bool),
    )
    for row, (text, ids, start, answer) in enumerate(
        zip(texts, inputs, starts, answers, strict=True)
    ):
        input_ids[row, start : start + len(ids)] = torch.tensor(ids)
        attention_mask[row, start : start + len(ids)] = 1
        answer_mask[row, answer : answer + len(text.target)] = True
        scored_mask[row, answer : answer + text.scored] = True
        labels[row, answer : answer + len(text.target)] = torch.tensor(text.target)
    return Batch(
        index=torch.tensor(index),
        texts=inputs,
        starts=starts,
        input_ids=input_ids.to(device),
        attention_mask=attention_mask.to(device),
        position_ids=(attention_mask.cumsum(1) - 1).clamp(min=0).to(device),
        answer_mask=answer_mask.to(device),
        labels=labels.to(device),
        scored_mask=scored_mask.to(device),
        prompt_end=torch.tensor(answers).to(device),
        first_answer=min(answers),
    )


def batches_of(
    texts: Sequence[Encoded],
    batch_tokens: int,
    device: torch.device | str,
    pad_id: int,
    side: PaddingSide = "right",
) -> Iterator[Batch]:
    """All texts, collated by `plan`."""
    for group in plan([_widths(text, side) for text in texts], batch_tokens):
        yield collate([texts[place] for place in group], group, device, pad_id, side)


def plan(widths: Sequence[tuple[int, int]], batch_tokens: int) -> list[list[int]]:
    """Group texts so that little is padded and batches are few.

    Texts are put in order by length, in each of three ways; an order is cut where the sum of
    padded tokens and `BATCH_OVERHEAD` for every batch is least, and the cheapest order counts.

    Args:
        widths: Per text the tokens that are padded on the left and those on the right.
        batch_tokens: Padded tokens of a batch; a longer text is a batch of its own.

    Returns:
        Places in `widths`, each exactly once; ties keep their order, so the plan is a
        function of its arguments alone.
    """
    orders = [
        sorted(range(len(widths)), key=lambda i: (sum(widths[i]), widths[i][0], i)),
        sorted(range(len(widths)), key=lambda i: (widths[i][0], widths[i][1], i)),
        sorted(range(len(widths)), key=lambda i: (widths[i][1], widths[i][0], i)),
    ]
    distinct = [order for place, order in enumerate(orders) if order not in orders[:place]]
    cuts = [_cut([widths[i] for i in order], batch_tokens) for order in distinct]
    (_, ends), order = min(zip(cuts, distinct, strict=True), key=lambda found: found[0][0])
    return [order[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _cut(widths: Sequence[tuple[int, int]], batch_tokens: int) -> tuple[int, list[int]]:
    """Least cost of the batches of an ordered sequence, and where each of them ends."""
    best, begin = [0], [0]
    for end in range(1, len(widths) + 1):
        before = after = 0
        least, chosen = -1, end - 1
        for start in range(end - 1, -1, -1):
            before, after = max(before, widths[start][0]), max(after, widths[start][1])
            padded = (end - start) * (before + after)
            if padded > batch_tokens and start < end - 1:
                break
            cost = best[start] + padded + BATCH_OVERHEAD
            if least < 0 or cost <= least:
                least, chosen = cost, start
        best.append(least)
        begin.append(chosen)
    ends = []
    end = len(widths)
    while end:
        ends.append(end)
        end = begin[end]
    return best[-1], ends[::-1]


def _widths(text: Encoded, side: PaddingSide) -> tuple[int, int]:
    """Columns of a text that are aligned at their right end, and at their left."""
    tokens = len(text.ids) - 1
    if side == "both":
        return len(text.prompt) - 1, len(text.target)
    return (tokens, 0) if side == "left" else (0, tokens)
