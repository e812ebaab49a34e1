"""One thread that decodes all running generations together, each with its own overlay."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ultraedit.forward.forward import cache_argument
from ultraedit.forward.generate import context_length
from ultraedit.service.caches import Caches, Held
from ultraedit.service.errors import ApiError
from ultraedit.service.overlay import Overlaid, Overlay
from ultraedit.service.sampling import Sampling, Token, choose, tokens

log = logging.getLogger(__name__)

# Of a model that names no limit.
UNLIMITED = 2**20
# Prompt tokens that are read between two decoding steps, so that running answers go on.
PREFILL_TOKENS = 512
# Positions whose logits are held at once while a prompt is scored.
SCORED_AT_ONCE = 128
MOST_ROWS = 64

Finish = Literal["stop", "length"]


class Generation:
    """One running answer: an asynchronous iterator of its tokens.

    Attributes:
        prompt_tokens: The prompt's own tokens with their probabilities, where they were asked for;
            complete once the first token came, or the end.
        finish: Why it ended, once it did: `stop` at a token that ends an answer, which is not
            among those given; `length` at the wanted number.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, wake: Callable[[], None] = lambda: None
    ) -> None:
        self.prompt_tokens: list[Token] = []
        self.finish: Finish | None = None
        self._loop, self._wake = loop, wake
        self._queue: asyncio.Queue[Token | Finish | Exception] = asyncio.Queue()
        self.cancelled = threading.Event()

    def __aiter__(self) -> AsyncIterator[Token]:
        return self

    async def __anext__(self) -> Token:
        if self.finish is not None:
            raise StopAsyncIteration
        found = await self._queue.get()
        if isinstance(found, Token):
            return found
        if isinstance(found, Exception):
            self.finish = "stop"
            raise found
        self.finish = found
        raise StopAsyncIteration

    def cancel(self) -> None:
        """Stop decoding it: nobody reads what would come."""
        self.cancelled.set()
        self._wake()

    def put(self, found: Token | Finish | Exception) -> None:
        """Called by the thread that decodes."""
        try:
            self._loop.call_soon_threadsafe(self._queue.put_nowait, found)
        except RuntimeError:
            # The loop is closed: whoever read this is gone.
            self.cancelled.set()


@dataclass(eq=False)
class _Row:
    generation: Generation
    prompt: Tensor
    overlay: Overlay
    sampling: Sampling
    top: int
    score_prompt: bool
    random: torch.Generator | None
    made: int = 0
    next: int = 0


@dataclass
class _Group:
    """Rows that are decoded in one pass, and what the model holds of them."""

    rows: list[_Row] = field(default_factory=list)
    held: Held | None = None


class Batcher:
    """Decodes running generations together, step by step.

    New ones join between two steps, once their prompts are read; each keeps the overlay that it
    began with.

    Args:
        model: In evaluation mode; only this thread runs it.
        stops: Tokens that end an answer.
        most_rows: Generations that run at once; others wait.
        most_waiting: Others that may wait; further ones are refused.
        threads: The number of CPU threads to compute with, asked before every pass.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        stops: set[int],
        *,
        most_rows: int = MOST_ROWS,
        most_waiting: int = 1024,
        threads: Callable[[], int] = torch.get_num_threads,
    ) -> None:
        self.model, self.stops = model, stops
        self.most_rows, self.most_waiting, self.threads = most_rows, most_waiting, threads
        self.context_length = context_length(model) or UNLIMITED
        self.generated = 0
        self._overlaid = Overlaid(model)
        self._caches = Caches.of(model)
        self._cache_name = cache_argument(model)
        self._device = model.get_input_embeddings().weight.device
        self._waiting: deque[_Row] = deque()
        self._groups: list[_Group] = []
        self._changed = threading.Condition()
        self._state: Literal["running", "draining", "closed"] = "running"
        self._thread = threading.Thread(target=self._run, name="decode", daemon=True)
        self._thread.start()

    def submit(
        self,
        prompt_ids: Sequence[int],
        overlay: Overlay,
        sampling: Sampling,
        *,
        top: int = 0,
        score_prompt: bool = False,
    ) -> Generation:
        """Begin an answer; called inside a running event loop.

        Args:
            prompt_ids: At least one token.
            overlay: What is added to the model for this answer, to its end.
            sampling: How tokens are chosen.
            top: How many of the likeliest tokens each one is given with.
            score_prompt: Whether the prompt's own tokens are scored.

        Raises:
            ApiError: there is no prompt, or it leaves too little room; the server is stopping, or
                has too much to do.
        """
        if not prompt_ids:
            raise ApiError(400, "the prompt is empty", param="prompt")
        if len(prompt_ids) + sampling.max_tokens > self.context_length:
            raise ApiError(
                400,
                f"This model's maximum context length is {self.context_length} tokens; the request"
                f" has {len(prompt_ids)} in the prompt and asks for {sampling.max_tokens} more.",
                param="max_tokens",
                code="context_length_exceeded",
            )
        row = _Row(
            Generation(asyncio.get_running_loop(), self._notify),
            torch.tensor(list(prompt_ids)), overlay, sampling, top, score_prompt,
            sampling.generator(),
        )  # fmt: skip
        with self._changed:
            if self._state != "running":
                raise ApiError(503, "the server is stopping")
            if len(self._waiting) >= self.most_waiting:
                raise ApiError(429, "too many requests are waiting; try again")
            self._waiting.append(row)
            self._changed.notify()
        return row.generation

    @property
    def running(self) -> int:
        """Generations that are being decoded."""
        return sum(len(group.rows) for group in list(self._groups))

    @property
    def waiting(self) -> int:
        """Generations that have not begun."""
        return len(self._waiting)

    @property
    def accepting(self) -> bool:
        """Whether it takes new ones."""
        return self._state == "running"

    def drain(self) -> None:
        """Take no more, and let those that run come to their end."""
        with self._changed:
            self._state = "draining"
            self._changed.notify()

    def close(self, timeout: float | None = None) -> bool:
        """End, at once; what still runs fails with 503.

        Returns:
            Whether the thread has ended within `timeout` seconds.
        """
        with self._changed:
            self._state = "closed"
            self._changed.notify()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def idle(self) -> bool:
        return not self._waiting and not self._groups

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify()

    def _run(self) -> None:
        with torch.inference_mode():
            while True:
                with self._changed:
                    while self._state != "closed" and self.idle():
                        self._changed.wait()
                    if self._state == "closed":
                        break
                if self.threads() != torch.get_num_threads():
                    torch.set_num_threads(self.threads())
                self._admit()
                self._step()
        closed = ApiError(503, "the server is stopping")
        for row in [*self._waiting, *(row for group in self._groups for row in group.rows)]:
            row.generation.put(closed)
        self._overlaid.close()

    def _admit(self) -> None:
        """Read the prompts of some that wait, and let them decode with the others."""
        for group in self._newcomers():
            try:
                with self._overlaid.rows([row.overlay for row in group.rows]):
                    last = self._scored(group) if group.rows[0].score_prompt else self._read(group)
            except Exception as error:
                self._fail(group, error)
                continue
            self._advance(group, last)
            if group.rows:
                self._join(group)

    def _newcomers(self) -> list[_Group]:
        """Some that wait, in groups whose prompts are read in one pass."""
        groups: list[_Group] = []
        room, read = self.most_rows - self.running, 0
        while self._waiting and room > 0 and read < PREFILL_TOKENS:
            row = self._waiting.popleft()
            if row.generation.cancelled.is_set():
                continue
            room, read = room - 1, read + len(row.prompt)
            if groups and self._caches.can_merge and _fits(groups[-1], row):
                groups[-1].rows.append(row)
            else:
                groups.append(_Group([row]))
        for group in groups:
            # Rows of one overlay stand together: each overlay is then added in one product.
            group.rows.sort(key=lambda row: id(row.overlay))
        return groups

    def _read(self, group: _Group) -> Tensor:
        """Read prompts; (rows, vocabulary) logits behind their last tokens."""
        width = max(len(row.prompt) for row in group.rows)
        ids = torch.zeros(len(group.rows), width, dtype=torch.int64)
        given = torch.zeros_like(ids)
        for place, row in enumerate(group.rows):
            ids[place, width - len(row.prompt) :] = row.prompt
            given[place, width - len(row.prompt) :] = 1
        group.held = self._caches.empty(len(group.rows))
        return self._pass(group.held, ids, given, keep=1)[:, -1].float()

    def _scored(self, group: _Group) -> Tensor:
        """Read and score one prompt, part by part; (1, vocabulary) logits behind its last token."""
        (row,) = group.rows
        group.held = self._caches.empty(1)
        found = [Token(int(row.prompt[0]), math.nan)]
        last: Tensor | None = None
        for part in torch.split(row.prompt, SCORED_AT_ONCE):
            logits = self._pass(group.held, part[None], torch.ones_like(part[None]), keep=0)[0]
            before = logits[:-1] if last is None else torch.cat([last, logits[:-1]])
            labels = part[1:] if last is None else part
            found += tokens(before.float(), labels.to(before.device), row.top)
            last = logits[-1:]
        row.generation.prompt_tokens = found
        assert last is not None
        return last.float()

    def _join(self, group: _Group) -> None:
        """Decode a group with another, if what the model holds of both can be put together."""
        if not self._caches.can_merge or not self._groups:
            self._groups.append(group)
            return
        (first,) = self._groups
        assert first.held is not None
        assert group.held is not None
        rows = [*first.rows, *group.rows]
        # Rows of one overlay stand together: each overlay is then added in one product.
        order = sorted(range(len(rows)), key=lambda place: id(rows[place].overlay))
        first.held = self._caches.merged(first.held, group.held, order)
        first.rows = [rows[place] for place in order]

    def _step(self) -> None:
        """One more token for every running generation."""
        for group in list(self._groups):
            self._drop(group, [row.generation.cancelled.is_set() for row in group.rows])
            if group.rows:
                try:
                    with self._overlaid.rows([row.overlay for row in group.rows]):
                        assert group.held is not None
                        ids = torch.tensor([[row.next] for row in group.rows])
                        logits = self._pass(group.held, ids, torch.ones_like(ids), keep=1)
                except Exception as error:
                    self._fail(group, error)
                else:
                    self._advance(group, logits[:, -1].float())
        self._groups = [group for group in self._groups if group.rows]

    def _pass(self, held: Held, ids: Tensor, given: Tensor, keep: int) -> Tensor:
        """(rows, positions, vocabulary) logits of the last `keep` positions, or of all for 0."""
        positions = held.extend(given.to(self._device))
        logits: Tensor = self.model(
            input_ids=ids.to(self._device),
            attention_mask=held.mask,
            position_ids=positions,
            use_cache=True,
            logits_to_keep=keep,
            **{self._cache_name: held.cache},
        ).logits
        return logits[:, -keep:] if keep else logits

    def _advance(self, group: _Group, logits: Tensor) -> None:
        """Choose a token for every row, hand it out, and let those go that are at their end."""
        here = logits.cpu()
        ended = []
        greedy = here.argmax(1).tolist()
        for place, row in enumerate(group.rows):
            finish: Finish | None = None
            if row.made >= row.sampling.max_tokens:
                finish = "length"
            else:
                chosen = greedy[place]
                if row.random is not None:
                    chosen = choose(here[place], row.sampling, row.random)
                if chosen in self.stops:
                    finish = "stop"
                else:
                    (token,) = tokens(here[place : place + 1], torch.tensor([chosen]), row.top)
                    row.next, row.made = chosen, row.made + 1
                    self.generated += 1
                    row.generation.put(token)
                    if row.made == row.sampling.max_tokens:
                        finish = "length"
            if finish is not None:
                row.generation.put(finish)
            ended.append(finish is not None)
        self._drop(group, ended)

    def _drop(self, group: _Group, ended: Sequence[bool]) -> None:
        if not any(ended):
            return
        kept = [place for place, gone in enumerate(ended) if not gone]
        group.rows = [group.rows[place] for place in kept]
        if kept and group.held is not None:
            self._caches.select(group.held, kept)

    def _fail(self, group: _Group, error: Exception) -> None:
        log.error("a pass failed", exc_info=error)
        for row in group.rows:
            row.generation.put(
                ApiError(500, "the model failed to answer")
                if not isinstance(error, torch.OutOfMemoryError)
                else ApiError(503, "the device's memory is full; try again")
            )
        group.rows = []


def _fits(group: _Group, row: _Row) -> bool:
    """Whether a prompt can be read with those of a group, without too much padding."""
    lengths = [len(one.prompt) for one in (*group.rows, row)]
    scored = row.score_prompt or group.rows[0].score_prompt
    return not scored and max(lengths) * len(lengths) <= 2 * sum(lengths)
