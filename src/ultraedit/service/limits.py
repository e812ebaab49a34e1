"""How much a client may ask of the server: size of a body, requests a minute, failed keys."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, fields
from ipaddress import IPv6Address, ip_address

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ultraedit.errors import InputError
from ultraedit.service.errors import ApiError
from ultraedit.service.keys import secret_in

# Clients that are remembered; more of them push out those that were silent longest.
MOST_CLIENTS = 10_000


@dataclass(frozen=True)
class Limits:
    """The configured numbers, all of them at least 1.

    Attributes:
        body_bytes: Of a request.
        requests_per_minute: Of one key; as many may come at once after a quiet minute.
        failures_per_minute: Requests with a wrong key from one address, likewise.
        batch_prompts: Prompts in one request.
        edits: In one request.
        prompt_characters: In one prompt.
        queued_generations: Running and waiting ones together, of all clients.

    Raises:
        InputError: one is less than 1.
    """

    body_bytes: int = 8 * 2**20
    requests_per_minute: int = 600
    failures_per_minute: int = 20
    batch_prompts: int = 64
    edits: int = 256
    prompt_characters: int = 32_768
    queued_generations: int = 256

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) < 1:
                raise InputError(f"the limit {field.name} is at least 1")


def install(app: FastAPI, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
    """Let an application refuse bodies that are too long and clients that ask too often."""
    app.add_middleware(BodyLimit, most=limits.body_bytes)
    app.add_middleware(Throttle, limits=limits, clock=clock)


class BodyLimit:
    """ASGI middleware that answers 413 to a body of more than `most` bytes.

    It counts what arrives, whatever the request says of its length.
    """

    def __init__(self, app: ASGIApp, most: int) -> None:
        self.app, self.most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        too_long = ApiError(413, f"the body has more than {self.most} bytes", code="body_too_long")
        length = Headers(scope=scope).get("content-length", "")
        # More digits than this are no length; what arrives is counted all the same.
        if length.isdecimal() and len(length) < 20 and int(length) > self.most:
            return await too_long.response()(scope, receive, send)
        size, started = 0, False

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self.most:
                raise too_long
            return message

        async def sent(message: Message) -> None:
            nonlocal started
            if size > self.most and not started:
                return  # What the application makes of a body that it could not read.
            started = True
            await send(message)

        try:
            await self.app(scope, counted, sent)
        except Exception:
            if size <= self.most or started:
                raise
        if size > self.most and not started:
            await too_long.response()(scope, receive, send)
        return None


class Buckets:
    """A bucket of tokens for each name, refilled steadily; full are those never seen.

    Args:
        per_minute: Tokens that flow in, and that a bucket holds.
        clock: Seconds that only go forward.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float]) -> None:
        self._each = 60 / per_minute
        self._clock = clock
        # When a bucket will be full again.
        self._full: OrderedDict[Hashable, float] = OrderedDict()

    def wait(self, name: Hashable) -> float:
        """Seconds until there is a token; 0 if there is one now."""
        now = self._clock()
        wait = self._full.get(name, now) - now - (60 - self._each)
        return wait if wait > 1e-6 else 0.0

    def spend(self, name: Hashable) -> None:
        """Take a token; one that is not there yet is owed."""
        now = self._clock()
        self._full[name] = max(self._full.get(name, now), now) + self._each
        self._full.move_to_end(name)
        if len(self._full) > MOST_CLIENTS:
            self._full.popitem(last=False)


class Throttle:
    """ASGI middleware that answers 429 to a key that asks too often, and to guessing.

    An address that came with too many wrong keys is refused, whatever key it has next, before
    anybody looks at the key. Keys that were right from there before are not: clients may share
    an address. It has to stand around what sets `request.state.key`.
    """

    def __init__(
        self, app: ASGIApp, limits: Limits, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.app = app
        self._requests = Buckets(limits.requests_per_minute, clock)
        self._failures = Buckets(limits.failures_per_minute, clock)
        self._known: OrderedDict[Hashable, None] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        secret = secret_in(Headers(scope=scope)) if scope["type"] == "http" else None
        if secret is None:
            return await self.app(scope, receive, send)
        key, address = hashlib.sha256(secret.encode()).digest(), network(scope)
        wait = self._requests.wait(key)
        message = "too many requests with this key"
        if (address, key) not in self._known and (blocked := self._failures.wait(address)):
            wait, message = blocked, "too many wrong keys from this address"
        if wait:
            error = ApiError(429, message, code="rate_limit_exceeded", retry_after=wait)
            return await error.response()(scope, receive, send)
        self._requests.spend(key)
        state = scope.setdefault("state", {})

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._note((address, key), message["status"] == 401, "key" in state)
            await send(message)

        return await self.app(scope, receive, sent)

    def _note(self, client: tuple[str, bytes], is_wrong: bool, is_right: bool) -> None:
        if is_wrong:
            self._known.pop(client, None)
            self._failures.spend(client[0])
        elif is_right:
            self._known[client] = None
            self._known.move_to_end(client)
            if len(self._known) > MOST_CLIENTS:
                self._known.popitem(last=False)


def network(scope: Scope) -> str:
    """Where a request comes from: an address, of IPv6 the 64 bits that one client has."""
    host: str = (scope.get("client") or ("",))[0]
    try:
        address = ip_address(host)
    except ValueError:
        return host
    if isinstance(address, IPv6Address):
        address = address.ipv4_mapped or IPv6Address(int(address) >> 64 << 64)
    return str(address)
