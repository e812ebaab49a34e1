"""The workbench: one model with its edited modules, masters and batch plan."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)

from ultraedit.encoding.batching import Batch, PaddingSide, batches_of, collate
from ultraedit.encoding.plan import MOST_PARTS
from ultraedit.encoding.tokenise import Encoded, Encoder, beginning
from ultraedit.errors import InputError
from ultraedit.forward.capture import Loss, Rows, capture
from ultraedit.forward.generate import (
    Answer,
    context_length,
    generate_answers,
    pad_id,
    plain_generation,
)
from ultraedit.forward.loss import loss_gradient
from ultraedit.forward.passes import Passes
from ultraedit.forward.positions import inputs_at
from ultraedit.forward.score import QueryContext, Scored, no_routing, score
from ultraedit.forward.spot_rows import SpotRows, capture_spots
from ultraedit.linalg.apply import MasterWeight
from ultraedit.methods.base import Shifts
from ultraedit.models.discover import prefix_below
from ultraedit.models.target import Target, targets
from ultraedit.progress import Advance, Progress, no_progress


class _TokenCounter(StoppingCriteria):
    """Advances a progress bar by every generated token; stops nothing."""

    def __init__(self, advance: Advance) -> None:
        self.advance = advance

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: object) -> Tensor:  # type: ignore[override]
        self.advance(1)
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


class ModelWorkbench:
    """Implements `methods.base.Workbench` over a transformers model.

    Args:
        model: Edited in place, through `masters`.
        encoder: How text becomes tokens; also holds the tokenizer.
        names: The modules to edit.
        batch_tokens: Padded tokens of one pass over the model; see `encoding.plan`.
        stored: The dtype that edited weights are stored in; the model's own by default.
        also: How text becomes tokens in the other form that edits have to hold in, if any.

    Raises:
        UnsupportedModelError: a module cannot be edited.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        encoder: Encoder,
        names: Sequence[str],
        batch_tokens: int,
        stored: torch.dtype | None = None,
        also: Encoder | None = None,
    ) -> None:
        self.model = model
        self.encoder = encoder
        self.also = also
        self.batch_tokens = batch_tokens
        self.stored = stored
        self.targets: Mapping[str, Target] = targets(model, names)
        self.masters = {
            name: MasterWeight.of(target.parameter, target.transposed, stored)
            for name, target in self.targets.items()
        }
        self._backup: dict[str, Tensor] = {}
        self.query: QueryContext = no_routing
        self.progress: Progress = no_progress
        self.passes = Passes(model, prefix_below(model, names))

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self.encoder.tokenizer

    @property
    def device(self) -> torch.device:
        """Where token ids go: the device of the input embeddings."""
        device = self.model.get_input_embeddings().weight.device
        # An offloaded embedding is fetched by its hook, which takes ids from anywhere.
        return torch.device("cpu") if device.type == "meta" else device

    def batches(self, texts: Sequence[Encoded]) -> Iterable[Batch]:
        self._hold(texts)
        return batches_of(texts, self._graph_tokens, self.device, pad_id(self.tokenizer))

    @property
    def _graph_tokens(self) -> int:
        # A pass that keeps its graph for all tokens holds about twice what a batch is planned for.
        return max(1, self.batch_tokens // MOST_PARTS)

    def _batches(self, texts: Sequence[Encoded], cuts: Sequence[int] = ()) -> Iterable[Batch]:
        self._hold(texts)
        pad, apart = pad_id(self.tokenizer), self.passes.split
        side: PaddingSide = "both" if apart else "right"
        # Split, a cut text keeps a graph behind its cut only; else it keeps one for all tokens.
        tokens = self.batch_tokens if apart or not cuts else self._graph_tokens
        return batches_of(texts, tokens, self.device, pad, side, apart, cuts)

    def capture(self, texts: Sequence[Encoded], loss: Loss = loss_gradient) -> dict[str, Rows]:
        modules = {name: target.module for name, target in self.targets.items()}
        return capture(self.model, modules, self._batches(texts), self.passes, loss)

    def capture_spots(self, texts: Sequence[Encoded], places: Sequence[Sequence[int]]) -> SpotRows:
        modules = {name: target.module for name, target in self.targets.items()}
        # Nothing before a text's first spot depends on what is given there.
        batches = self._batches(texts, [min(some) for some in places])
        return capture_spots(self.model, modules, batches, places, self.passes)

    def inputs_at(
        self, texts: Sequence[Encoded], places: Sequence[int | None]
    ) -> Iterator[dict[str, Tensor]]:
        modules = {name: target.module for name, target in self.targets.items()}

        def masked() -> Iterator[tuple[Batch, Tensor]]:
            pad = pad_id(self.tokenizer)
            for batch in batches_of(texts, self.batch_tokens, self.device, pad):
                mask = batch.attention_mask.bool() & (batch.position_ids > 0)
                for row, index in enumerate(batch.index.tolist()):
                    place = places[index]
                    if place is not None:
                        mask[row] = False
                        mask[row, batch.starts[row] + place] = True
                yield batch, mask

        return inputs_at(self.model, modules, masked())

    def score(self, texts: Sequence[Encoded]) -> list[Scored]:
        return score(self.model, self._batches(texts), self.query, self.passes)

    def logits(self, batch: Batch) -> Tensor:
        return self.passes.whole(batch)

    def answers(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[Answer]:
        """Free greedy answers, each up to end-of-sequence or the end of a line."""
        return generate_answers(
            self.model,
            self.tokenizer,
            prompts,
            max_new_tokens=max_new_tokens,
            batch_tokens=self.batch_tokens,
            device=self.device,
            query=self.query,
        )

    def look_ahead(self, texts: Sequence[Encoded]) -> None:
        """Run the frozen blocks over texts whose turns come later, in batches of their own.

        What they make of a text is held until `drop` names it, as far as there is room; the
        rest is computed when it is asked for.
        """
        self._hold(texts, ahead=True)

    def _hold(self, texts: Sequence[Encoded], ahead: bool = False) -> None:
        if not texts:
            return
        self.passes.check(lambda: self._check_batches(texts[0]))
        if (prefix := self.passes.prefix) is not None:
            by_ids = {text.ids[:-1]: text for text in texts}
            missing = [by_ids[ids] for ids in prefix.admit(text.ids[:-1] for text in texts)]
            pad = pad_id(self.tokenizer)
            prefix.hold(batches_of(missing, self.batch_tokens, self.device, pad), ahead)

    def drop(self, texts: Iterable[Encoded]) -> None:
        """Give back what was held of these texts."""
        self.passes.drop(text.ids[:-1] for text in texts)

    def forget(self) -> None:
        """Give back what was held of all texts seen so far."""
        self.passes.forget()

    def _check_batches(self, text: Encoded) -> tuple[Batch, Batch, Batch]:
        """A text, a shorter one, and both in two parts, padded inside one and between them."""
        prompt = text.prompt * (4 // len(text.prompt) + 1) if len(text.prompt) < 4 else text.prompt
        # A text may fill the model's whole length, and the prompt may just have grown.
        long = Encoded(prompt, text.target[:8], 1)
        short = Encoded(prompt[-2:], text.target[:1], 1)
        pad = pad_id(self.tokenizer)
        return (
            collate([long], [0], self.device, pad, "both"),
            collate([short], [0], self.device, pad, "both"),
            collate([short, long, short], [0, 1, 2], self.device, pad, "both", [1, 2]),
        )

    def check_length(self, text: Encoded, what: str) -> None:
        """Refuse a text that is longer than the model's context.

        Raises:
            InputError: naming `what`.
        """
        limit = context_length(self.model)
        if limit is not None and len(text.ids) > limit:
            raise InputError(
                f"{what} is {len(text.ids)} tokens long; the model reads {limit} at most"
            )

    @torch.no_grad()
    def sample(
        self, sequences: int, tokens: int, seed: int = 0, advance: Advance | None = None
    ) -> list[Encoded]:
        """Text drawn at temperature 1 from the start of a sequence; the caller's random
        state is left as it was.
        """
        tokenizer = self.tokenizer
        start = beginning(tokenizer)
        begin = torch.full((sequences, 1), start, device=self.device)
        config = GenerationConfig(
            do_sample=True, top_k=0, max_new_tokens=tokens, pad_token_id=pad_id(tokenizer),
            eos_token_id=tokenizer.eos_token_id,
        )  # fmt: skip
        with torch.random.fork_rng(), plain_generation(self.model):
            torch.manual_seed(seed)
            drawn = self.model.generate(
                input_ids=begin,
                attention_mask=torch.ones_like(begin),
                generation_config=config,
                stopping_criteria=StoppingCriteriaList([_TokenCounter(advance)] if advance else []),
            )
        texts = []
        for row in drawn[:, 1:].tolist():
            if tokenizer.eos_token_id in row:
                row = row[: row.index(tokenizer.eos_token_id) + 1]
            texts.append(Encoded((start,), tuple(row), len(row)))
        return texts

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Masters as they were, brought back bit for bit if the block does not end well."""
        # Kept from turn to turn: fresh memory is slower to touch than to fill.
        self._backup = {
            name: master.copy(self._backup.get(name)) for name, master in self.masters.items()
        }
        try:
            yield
        except BaseException:
            self.restore(self._backup)
            raise

    @contextmanager
    def trial(self, shifts: Shifts) -> Iterator[None]:
        before = {name: self.masters[name].copy() for name in shifts}
        try:
            self.apply(shifts)
            yield
        finally:
            self.restore(before)

    def apply(self, shifts: Shifts) -> None:
        for name, shift in shifts.items():
            self.masters[name].add(shift)

    def restore(self, masters: Mapping[str, Tensor]) -> None:
        for name, master in masters.items():
            self.masters[name].set(master)

    def is_finite(self) -> bool:
        """Whether every served weight is."""
        return all(master.is_finite() for master in self.masters.values())

    @contextmanager
    def standing_in(self, other: PreTrainedModel) -> Iterator[None]:
        """Inside, another model of the same tokenizer answers."""
        own = self.model, self.passes
        self.model, self.passes = other, Passes(other, split=self.passes.split)
        try:
            yield
        finally:
            self.model, self.passes = own

    @contextmanager
    def unedited(self) -> Iterator[None]:
        """The original weights inside, bit for bit, and the edited ones after."""
        edited = {name: m.parameter.detach().clone() for name, m in self.masters.items()}
        try:
            for master in self.masters.values():
                master.serve(master.original)
            yield
        finally:
            for name, master in self.masters.items():
                master.serve(edited[name])
