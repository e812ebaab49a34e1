"""Questions from a chat model behind an OpenAI-compatible endpoint."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ultraedit.benchmark_data.asking import SYSTEM, questions_in, request
from ultraedit.benchmark_data.facts import Fact, Questions
from ultraedit.errors import InputError, UltraEditError

if TYPE_CHECKING:
    from openai import OpenAI


@dataclass(frozen=True)
class Limits:
    """How an endpoint is used.

    Attributes:
        concurrency: Requests at one time.
        per_minute: Most requests a minute; None for no limit.
        cost: Most dollars in all; None for no limit.
        price_in, price_out: Dollars of a million tokens.
        retries: Further tries of a request that was refused for a time, or not answered; the
            waits between them grow.
        attempts: Replies to one fact, until one of them keeps the rules.
        timeout: Seconds for one reply.
    """

    concurrency: int = 8
    per_minute: float | None = None
    cost: float | None = None
    price_in: float = 0.0
    price_out: float = 0.0
    retries: int = 8
    attempts: int = 3
    timeout: float = 60.0


class Replies:
    """Replies that were paid for, in a file, with what they cost; for several threads.

    Args:
        path: A SQLite database; made if it is not there.

    Attributes:
        tokens_in, tokens_out: Read and written by the model, for all replies.

    Raises:
        InputError: the file is something else.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        try:
            self._database = sqlite3.connect(path, check_same_thread=False)
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS replies"
                " (request TEXT PRIMARY KEY, reply TEXT, tokens_in INTEGER, tokens_out INTEGER)"
            )
            self.tokens_in, self.tokens_out = self._database.execute(
                "SELECT COALESCE(SUM(tokens_in), 0), COALESCE(SUM(tokens_out), 0) FROM replies"
            ).fetchone()
        except sqlite3.Error as error:
            raise InputError(f"{path} cannot be used for replies: {error}") from error

    def get(self, key: str) -> str | None:
        with self._lock, closing(self._database.cursor()) as cursor:
            row = cursor.execute("SELECT reply FROM replies WHERE request = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def put(self, key: str, reply: str, tokens_in: int, tokens_out: int) -> None:
        with self._lock, self._database:
            self._database.execute(
                "INSERT OR REPLACE INTO replies VALUES (?, ?, ?, ?)",
                (key, reply, tokens_in, tokens_out),
            )
            self.tokens_in += tokens_in
            self.tokens_out += tokens_out

    def close(self) -> None:
        self._database.close()


class ChatWriter:
    """Asks for two questions a fact; a reply that keeps no rule is asked for again.

    Args:
        client: Of the endpoint, with `max_retries=limits.retries` and a timeout.
        model: Its name there.
        replies: What was answered before.
        limits: How much may be asked.
    """

    def __init__(
        self, client: OpenAI, model: str, replies: Replies, limits: Limits | None = None
    ) -> None:
        self.client, self.model, self.replies = client, model, replies
        self.limits = limits or Limits()
        self.requests = 0
        self._pace = threading.Lock()
        self._next = 0.0

    @property
    def name(self) -> str:
        return f"{self.model}, a chat model"

    @property
    def cost(self) -> float:
        """Dollars that all replies have cost, those of earlier runs included."""
        read, written = self.replies.tokens_in, self.replies.tokens_out
        return (read * self.limits.price_in + written * self.limits.price_out) / 1e6

    def write(self, facts: Sequence[Fact]) -> Iterator[Questions | str]:
        """Two questions for every fact, or why there are none.

        Raises:
            UltraEditError: the endpoint refuses, does not answer, or the limit of costs is
                reached. What was answered is kept.
        """
        waiting: deque[Future[Questions | str]] = deque()
        with ThreadPoolExecutor(self.limits.concurrency) as pool:
            try:
                for fact in facts:
                    waiting.append(pool.submit(self._questions, fact))
                    if len(waiting) >= 2 * self.limits.concurrency:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for one in waiting:
                    one.cancel()

    def _questions(self, fact: Fact) -> Questions | str:
        found: Questions | str = "malformed reply"
        for attempt in range(self.limits.attempts):
            found = questions_in(self._reply(fact, attempt), fact)
            if isinstance(found, Questions):
                break
        return found

    def _reply(self, fact: Fact, attempt: int) -> str:
        import openai

        messages = [
            {"role": "system", "content": SYSTEM}, {"role": "user", "content": request(fact)}
        ]  # fmt: skip
        asked = json.dumps([self.model, messages, attempt])
        key = hashlib.sha256(asked.encode()).hexdigest()
        known = self.replies.get(key)
        if known is not None:
            return known
        if self.limits.cost is not None and self.cost >= self.limits.cost:
            raise UltraEditError(
                f"the limit of {self.limits.cost:g} dollars is reached; a higher one goes on"
            )
        self._wait()
        try:
            answer = self.client.chat.completions.create(
                model=self.model,
                messages=messages,  # type: ignore[arg-type]
                temperature=1.0,
                seed=attempt,
                max_tokens=200,
            )  # type: ignore[call-overload]
            text = answer.choices[0].message.content or ""
        except openai.APIStatusError as error:
            raise UltraEditError(
                f"the endpoint refused with {error.status_code}: {_line(error.message)}"
            ) from None
        except openai.OpenAIError as error:
            raise UltraEditError(f"the endpoint did not answer: {_line(str(error))}") from None
        except (AttributeError, IndexError, TypeError, ValueError):
            # Not the form of a chat completion: as good as a reply that says nothing.
            text, answer = "", None
        usage = getattr(answer, "usage", None)
        self.replies.put(
            key, text, getattr(usage, "prompt_tokens", 0) or 0,
            getattr(usage, "completion_tokens", 0) or 0,
        )  # fmt: skip
        return text

    def _wait(self) -> None:
        """Until the next request is allowed."""
        with self._pace:
            self.requests += 1
            if self.limits.per_minute is None:
                return
            now = time.monotonic()
            begin = max(now, self._next)
            self._next = begin + 60 / self.limits.per_minute
        time.sleep(max(0.0, begin - now))


def _line(text: str) -> str:
    return " ".join(text.split())[:200]
