"""Free greedy answers, batched, stopped at end-of-sequence or a line's end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)

from ultraedit.encoding.batching import Query
from ultraedit.encoding.plan import plan
from ultraedit.errors import InputError
from ultraedit.forward.score import QueryContext, no_routing


@dataclass(frozen=True)
class Answer:
    """What a model answered by itself.

    Attributes:
        ids: Generated tokens, without the one that ended the answer; if the model ended at
            once, that one token.
        text: The same, decoded, up to the first line's end, stripped.
    """

    ids: tuple[int, ...]
    text: str


class _LineEnd(StoppingCriteria):
    """Stops a row at the first token whose text holds a newline."""

    def __init__(self, ends_line: Callable[[int], bool]) -> None:
        self.ends_line = ends_line

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:  # type: ignore[override]
        ended = [self.ends_line(token) for token in input_ids[:, -1].tolist()]
        return torch.tensor(ended, device=input_ids.device)


@torch.no_grad()
def generate_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    batch_tokens: int,
    device: torch.device,
    query: QueryContext = no_routing,
) -> list[Answer]:
    """The greedy continuation of every prompt, in their order.

    Args:
        prompts: Token ids; padded on the left inside.
        max_new_tokens: Where an answer is cut that does not end by itself.
        batch_tokens: Padded tokens of a batch, the answer's included.
        query: Entered around each batch.

    Raises:
        InputError: a prompt leaves the model no room to answer.
    """
    ends: dict[int, bool] = {}

    def ends_line(token: int) -> bool:
        if token not in ends:
            ends[token] = "\n" in tokenizer.decode([token])
        return ends[token]

    pad = pad_id(tokenizer)
    stops = end_tokens(tokenizer, model)
    limit = context_length(model)
    for prompt in prompts:
        if limit is not None and len(prompt) >= limit:
            raise InputError(f"a prompt is {len(prompt)} tokens long; the model reads {limit}")
    answers: dict[int, Answer] = {}
    lengths = [(len(prompt) + max_new_tokens, 0) for prompt in prompts]
    for group in plan(lengths, batch_tokens):
        width = max(len(prompts[place]) for place in group)
        ids = torch.full((len(group), width), pad)
        mask = torch.zeros_like(ids)
        for row, place in enumerate(group):
            ids[row, width - len(prompts[place]) :] = torch.tensor(prompts[place])
            mask[row, width - len(prompts[place]) :] = 1
        ids, mask = ids.to(device), mask.to(device)
        room = max_new_tokens if limit is None else min(max_new_tokens, limit - width)
        config = greedy(tokenizer, stops, room)
        asked = Query(torch.full((len(group),), width - 1, device=device), mask)
        with query(asked), plain_generation(model):
            output = model.generate(
                input_ids=ids,
                attention_mask=mask,
                generation_config=config,
                stopping_criteria=StoppingCriteriaList([_LineEnd(ends_line)]),
            )
        for place, row in zip(group, output[:, width:].tolist(), strict=True):
            kept = next((i for i, t in enumerate(row) if t in stops or ends_line(t)), len(row))
            text = tokenizer.decode(row[: kept + 1], skip_special_tokens=True)
            answers[place] = Answer(tuple(row[: max(kept, 1)]), text.partition("\n")[0].strip())
    return [answers[place] for place in range(len(prompts))]


def greedy(
    tokenizer: PreTrainedTokenizerBase, stops: set[int], max_new_tokens: int
) -> GenerationConfig:
    """Greedy decoding, whatever sampling the checkpoint recommends."""
    return GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=max_new_tokens,
        pad_token_id=pad_id(tokenizer),
        eos_token_id=sorted(stops) or None,
    )


def end_tokens(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> set[int]:
    """Where an answer ends: what the checkpoint says, and what an edit writes after a target."""
    own = model.generation_config.eos_token_id if model.generation_config else None
    ends = {own} if isinstance(own, int) else set(own or ())
    return ends | ({tokenizer.eos_token_id} if tokenizer.eos_token_id is not None else set())


def context_length(model: PreTrainedModel) -> int | None:
    """How many tokens the model reads, where its configuration says so."""
    config = model.config.get_text_config(decoder=True)
    return getattr(config, "max_position_embeddings", None)


@contextmanager
def plain_generation(model: PreTrainedModel) -> Iterator[None]:
    """Without the checkpoint's own decoding defaults, which `generate` merges into any config."""
    own = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """A token to pad with; it is masked, so any will do where there is none for it."""
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    return 0
