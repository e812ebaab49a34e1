"""Padded, length-bucketed batches whose composition does not change a row's result."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ultraedit.encoding.plan import Widths, plan, plan_apart
from ultraedit.encoding.tokenise import Encoded

# `both` pads prompts on the left and answers on the right, so that all answers begin at one column.
PaddingSide = Literal["left", "right", "both"]


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
        first_answer: The first column with an answer, or one before it where texts are cut
            earlier; before it are prompts alone.
        parts: How many rows each; the prompts of a part are read in one pass, where prompts
            are read apart from answers.
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
    parts: tuple[int, ...]

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

    def prompts(self) -> Iterator[Batch]:
        """The rows of each part, from the first column that they use."""
        first = 0
        for count in self.parts:
            rows = slice(first, first + count)
            begin = min(self.starts[rows])
            yield Batch(
                index=self.index[rows],
                texts=self.texts[rows],
                starts=tuple(start - begin for start in self.starts[rows]),
                input_ids=self.input_ids[rows, begin:],
                attention_mask=self.attention_mask[rows, begin:],
                position_ids=self.position_ids[rows, begin:],
                answer_mask=self.answer_mask[rows, begin:],
                labels=self.labels[rows, begin:],
                scored_mask=self.scored_mask[rows, begin:],
                prompt_end=self.prompt_end[rows] - begin,
                first_answer=self.first_answer - begin,
                parts=(count,),
            )
            first += count


def collate(
    texts: Sequence[Encoded],
    index: Sequence[int],
    device: torch.device | str,
    pad_id: int,
    side: PaddingSide = "right",
    parts: Sequence[int] = (),
    cuts: Sequence[int] = (),
) -> Batch:
    """Pad `texts` to the longest of them; in one part where `parts` does not say.

    Args:
        cuts: Of each text the tokens before its cut, at most those before the one that its answer
            is read off, as they are where this is not given. Padded on `both` sides, texts lie
            cut to cut, and what is read before the answers ends there.
    """
    # The last target token is predicted, never read: leaving it out saves a column.
    inputs = tuple(text.ids[:-1] for text in texts)
    cuts = cuts or [len(text.prompt) - 1 for text in texts]
    widths = [_widths(text, side, cut) for text, cut in zip(texts, cuts, strict=True)]
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
        first_answer=min(start + cut for start, cut in zip(starts, cuts, strict=True)),
        parts=tuple(parts) or (len(texts),),
    )


def batches_of(
    texts: Sequence[Encoded],
    batch_tokens: int,
    device: torch.device | str,
    pad_id: int,
    side: PaddingSide = "right",
    apart: bool = False,
    cuts: Sequence[int] = (),
) -> Iterator[Batch]:
    """All texts, collated as planned; `apart` where prompts are read before their answers."""
    cuts = cuts or [len(text.prompt) - 1 for text in texts]
    widths = [_widths(text, side, cut) for text, cut in zip(texts, cuts, strict=True)]
    if apart:
        batches = plan_apart(widths, batch_tokens)
    else:
        batches = [[group] for group in plan(widths, batch_tokens)]
    for parts in batches:
        group = [place for part in parts for place in part]
        sizes = [len(part) for part in parts]
        chosen, own = [texts[place] for place in group], [cuts[place] for place in group]
        yield collate(chosen, group, device, pad_id, side, sizes, own)


def _widths(text: Encoded, side: PaddingSide, cut: int) -> Widths:
    tokens = len(text.ids) - 1
    if side == "both":
        return cut, tokens - cut
    return (tokens, 0) if side == "left" else (0, tokens)
