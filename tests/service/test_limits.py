import asyncio
import math
from dataclasses import fields
from types import SimpleNamespace
from typing import Annotated

import pytest
from fastapi import Depends, FastAPI, Request
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.testclient import TestClient

from ultraedit.errors import InputError
from ultraedit.service import errors, limits
from ultraedit.service.keys import Key, Keys, authorised
from ultraedit.service.limits import BodyLimit, Buckets, Limits, network

MOST = 100


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def keys(tmp_path):
    return Keys(tmp_path)


@pytest.fixture
def app(keys, clock):
    app = FastAPI()
    app.state.service = SimpleNamespace(keys=keys)
    errors.install(app)
    numbers = Limits(body_bytes=MOST, requests_per_minute=6, failures_per_minute=3)
    limits.install(app, numbers, clock)

    @app.get("/me")
    def me(key: Annotated[Key, Depends(authorised("reader"))]):
        return key.name

    @app.get("/open")
    def everybody():
        return "ok"

    @app.post("/checked")
    def checked(body: dict[str, str]):
        return sum(map(len, body.values()))

    @app.post("/raw")
    async def raw(request: Request):
        return len(await request.body())

    @app.post("/early")
    async def early(request: Request):
        async def echo():
            yield b"begun"
            async for piece in request.stream():
                yield piece

        return StreamingResponse(echo())

    @app.post("/unread")
    async def unread():
        return "ok"

    return app


@pytest.fixture
def client(app):
    return TestClient(app)


def in_pieces(data, size=7):
    for start in range(0, len(data), size):
        yield data[start : start + size]


JSON = {"content-type": "application/json"}


def body_of(size):
    return b'{"a": "' + b"x" * (size - 9) + b'"}'


@pytest.mark.parametrize("path", ["/checked", "/raw"])
@pytest.mark.parametrize("shape", [bytes, in_pieces])
def test_a_body_may_have_the_limit_and_no_byte_more(client, path, shape):
    assert client.post(path, content=shape(body_of(MOST)), headers=JSON).status_code == 200
    response = client.post(path, content=shape(body_of(MOST + 1)), headers=JSON)
    assert response.status_code == 413
    assert response.json()["error"] == {
        "message": "the body has more than 100 bytes", "type": "invalid_request_error",
        "param": None, "code": "body_too_long",
    }  # fmt: skip


def run(app, scope_headers, messages):
    """What an ASGI application answers, and how much of the request it read."""
    scope = {
        "type": "http", "method": "POST", "path": "/raw", "query_string": b"",
        "headers": scope_headers, "client": ("9.9.9.9", 1),
    }  # fmt: skip
    left, sent = list(messages), []

    async def receive():
        return left.pop(0)

    async def send(message):
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    return sent, len(messages) - len(left)


def pieces(*sizes):
    return [
        {"type": "http.request", "body": b"x" * size, "more_body": place < len(sizes) - 1}
        for place, size in enumerate(sizes)
    ]


def test_a_long_body_is_not_even_read_where_its_length_is_given(app):
    sent, read = run(app, [(b"content-length", b"101")], pieces(101))
    assert (sent[0]["status"], read) == (413, 0)


def test_reading_ends_where_the_limit_is_passed(app):
    sent, read = run(app, [], pieces(60, 60, 60, 60))
    assert (sent[0]["status"], read) == (413, 2)
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]


@pytest.mark.parametrize("length", [b"1", b"-5", b"x", b"9" * 5000, b"\xb2"])
def test_what_arrives_counts_whatever_the_length_says(app, length):
    sent, _ = run(app, [(b"content-length", length)], pieces(60, 60))
    assert sent[0]["status"] == 413


def test_an_answer_that_has_begun_is_not_begun_again(app):
    begun, _ = run(BodyLimit(_begins_first, MOST), [], pieces(60, 30))
    assert b"".join(message.get("body", b"") for message in begun) == b"90"
    with pytest.raises(errors.ApiError):
        run(BodyLimit(_begins_first, MOST), [], pieces(60, 60))


async def _begins_first(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    size, more = 0, True
    while more:
        message = await receive()
        size += len(message["body"])
        more = message["more_body"]
    await send({"type": "http.response.body", "body": b"%d" % size})


def test_failures_of_the_application_are_its_own():
    async def broken(scope, receive, send):
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        run(BodyLimit(broken, MOST), [], pieces(1))


def test_an_application_that_hides_the_failure_answers_413_all_the_same():
    async def hides(scope, receive, send):
        try:
            await receive()
        except Exception:
            await PlainTextResponse("fine")(scope, receive, send)

    sent, _ = run(BodyLimit(hides, MOST), [], pieces(101))
    assert [message.get("status") for message in sent] == [413, None]


@settings(deadline=None)
@given(st.lists(st.integers(0, 60), min_size=1, max_size=6))
def test_only_the_sum_of_the_pieces_counts(sizes):
    async def reads(scope, receive, send):
        body = await Request(scope, receive).body()
        await PlainTextResponse(str(len(body)))(scope, receive, send)

    sent, _ = run(BodyLimit(reads, MOST), [], pieces(*sizes))
    assert sent[0]["status"] == (200 if sum(sizes) <= MOST else 413)
    if sum(sizes) <= MOST:
        assert sent[1]["body"] == b"%d" % sum(sizes)


def ask(client, secret, path="/me"):
    return client.get(path, headers={"Authorization": f"Bearer {secret}"})


def statuses(client, secret, times, path="/me"):
    return [ask(client, secret, path).status_code for _ in range(times)]


def test_a_key_has_so_many_requests_a_minute(client, keys, clock):
    ada, bob = keys.create("ada", "reader", ["*"]), keys.create("bob", "reader", ["*"])
    assert statuses(client, ada, 7) == [200] * 6 + [429]
    assert ask(client, bob).status_code == 200
    refused = ask(client, ada)
    assert refused.headers["retry-after"] == "10"
    error = refused.json()["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    clock.now += 10
    assert statuses(client, ada, 2) == [200, 429]
    clock.now += 3600
    assert statuses(client, ada, 7) == [200] * 6 + [429]


def test_writing_the_header_differently_gives_no_more_requests(client, keys):
    secret = keys.create("ada", "reader", ["*"])
    headers = [{"Authorization": f"{s} {secret}"} for s in ("Bearer", "bearer", "BEARER ") * 3]
    found = [client.get("/me", headers=header).status_code for header in headers]
    assert found == [200] * 6 + [429] * 3


def test_guessing_is_slowed_down_and_known_clients_are_not(client, keys, clock):
    ada, bob = keys.create("ada", "reader", ["*"]), keys.create("bob", "reader", ["*"])
    assert ask(client, ada).status_code == 200
    guesses = [ask(client, f"ue-{number}").status_code for number in range(5)]
    assert guesses == [401, 401, 401, 429, 429]
    # The right guess cannot be told from a wrong one.
    refused = ask(client, bob)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "20")
    assert refused.json() == ask(client, "ue-9").json()
    assert ask(client, ada).status_code == 200
    clock.now += 20
    assert ask(client, bob).status_code == 200
    assert statuses(client, "ue-x", 2) == [401, 429]
    assert ask(client, bob).status_code == 200


def test_open_pages_need_no_key_and_make_none_known(app, client, keys):
    statuses(client, "ue-x", 3)
    assert [client.get("/open").status_code for _ in range(9)] == [200] * 9
    assert [client.get("/me").status_code for _ in range(9)] == [401] * 9

    other = TestClient(app, client=("8.8.8.8", 1))
    secret = keys.create("ada", "reader", ["*"])
    assert statuses(other, secret, 2, "/open") == [200, 200]
    statuses(other, "ue-y", 3)
    assert ask(other, secret).status_code == 429


def test_clients_that_came_last_stay_known(client, keys, monkeypatch):
    monkeypatch.setattr(limits, "MOST_CLIENTS", 2)
    ada, bob, eve = (keys.create(name, "reader", ["*"]) for name in ("ada", "bob", "eve"))
    for secret in (ada, bob, ada, eve):
        assert ask(client, secret).status_code == 200
    statuses(client, "ue-x", 3)
    assert [ask(client, secret).status_code for secret in (ada, bob, eve)] == [200, 429, 200]


def test_a_revoked_key_is_a_wrong_one(client, keys):
    secret = keys.create("ada", "reader", ["*"])
    assert ask(client, secret).status_code == 200
    keys.revoke("ada")
    assert statuses(client, secret, 5) == [401] * 3 + [429] * 2


def test_addresses_are_apart(app, keys):
    here, there = (TestClient(app, client=(host, 1)) for host in ("9.9.9.9", "8.8.8.8"))
    statuses(here, "ue-x", 3)
    assert ask(here, "ue-y").status_code == 429
    assert ask(there, "ue-y").status_code == 401


@pytest.mark.parametrize(
    ("host", "wanted"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("2001:db8:1:2:ffff::", "2001:db8:1:2::"),
        ("testclient", "testclient"),
    ],
)
def test_networks(host, wanted):
    assert network({"client": (host, 80)}) == wanted


def test_a_socket_without_addresses_is_one_client():
    assert network({"client": None}) == network({}) == ""


@given(
    per_minute=st.integers(1, 1000),
    pauses=st.lists(st.floats(0, 90), min_size=1, max_size=80),
)
def test_no_window_has_more_than_a_full_bucket_and_what_flows_in(per_minute, pauses):
    clock = Clock()
    buckets, taken = Buckets(per_minute, clock), []
    for pause in pauses:
        clock.now += pause
        if wait := buckets.wait("a"):
            assert 0 < wait <= 60 / per_minute + 1e-6
            clock.now += math.ceil(wait)
        assert buckets.wait("a") == 0
        buckets.spend("a")
        taken.append(clock.now)
    for first in range(len(taken)):
        for last in range(first, len(taken)):
            flown = per_minute * (1 + (taken[last] - taken[first]) / 60)
            assert last - first + 1 <= flown + 1e-3


def test_tokens_that_are_not_there_are_owed():
    clock = Clock()
    buckets = Buckets(60, clock)
    for _ in range(70):
        buckets.spend("a")
    assert buckets.wait("a") == pytest.approx(11)
    assert buckets.wait("b") == 0


def test_the_memory_of_clients_is_bounded(monkeypatch):
    monkeypatch.setattr(limits, "MOST_CLIENTS", 3)
    buckets = Buckets(1, Clock())
    for name in "abcad":
        buckets.spend(name)
    assert [name for name in "abcd" if buckets.wait(name)] == ["a", "c", "d"]


@pytest.mark.parametrize("name", [field.name for field in fields(Limits)])
def test_limits_are_at_least_one(name):
    assert getattr(Limits(**{name: 1}), name) == 1
    with pytest.raises(InputError, match=name):
        Limits(**{name: 0})
