"""OpenAI's endpoints over scripted answers, for a plain client, the openai package, and lm-eval.

The generations are the server's own; only their tokens are written beforehand.
"""

import asyncio
import json
import math
import socket
import threading
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from types import SimpleNamespace
from urllib.parse import urlsplit

import openai
import pytest
import uvicorn
from fastapi import FastAPI
from lm_eval.models.openai_completions import LocalCompletionsAPI
from starlette.requests import ClientDisconnect
from starlette.testclient import TestClient
from tokenizers import Tokenizer, decoders
from transformers import PreTrainedTokenizerFast

from ultraedit.service import errors
from ultraedit.service.batcher import Generation
from ultraedit.service.errors import ApiError
from ultraedit.service.keys import Keys
from ultraedit.service.limits import Limits
from ultraedit.service.openai_api import Answer, router
from ultraedit.service.overlay import Overlay
from ultraedit.service.sampling import Sampling, Token
from ultraedit.service.text_stream import TextStream

EMOJI = "\U0001f600"
LEAST = Limits(batch_prompts=3, prompt_characters=60)


class Scripted:
    """A batcher whose answers are written beforehand.

    Attributes:
        says: From a prompt's ids to the answer's ids, and how it ends: `stop`, `length`, an
            exception, or `never`, for one that goes on until it is cancelled.
        asked: The arguments of each `submit`.
        made: Each generation.
    """

    context_length = 64

    def __init__(self):
        self.says = lambda ids: ([], "stop")
        self.asked, self.made, self.begun = [], [], threading.Event()

    def submit(self, prompt_ids, overlay, sampling, *, top=0, score_prompt=False):
        if len(prompt_ids) + sampling.max_tokens > self.context_length:
            raise ApiError(400, "too long", param="max_tokens", code="context_length_exceeded")
        self.asked.append((list(prompt_ids), overlay, sampling, top, score_prompt))
        generation = Generation(asyncio.get_running_loop())
        self.made.append(generation)
        ids, end = self.says(list(prompt_ids))
        if score_prompt:
            first, *others = prompt_ids
            scored = [Token(first, math.nan), *(made(token, top) for token in others)]
            generation.prompt_tokens = scored
        for token in ids[: sampling.max_tokens]:
            generation.put(made(token, top))
        if len(ids) >= sampling.max_tokens:
            end = "length"
        if end != "never":
            generation.put(end)
        self.begun.set()
        return generation


OVERLAYS = {"tiny": Overlay(version="base@0"), "tiny:team-a": Overlay(version="team-a@3")}


def made(token, top):
    """A token that is likelier the smaller its id; those of multiples of 5 are the likeliest."""
    likeliest = [(token, -token / 100)] if token % 5 == 0 else [(7, -0.001)]
    others = [(other, -1.0 - other) for other in range(200, 219)]
    return Token(token, -token / 100, tuple((likeliest + others)[:top]))


@pytest.fixture
def service(chatty, tmp_path):
    keys = Keys(tmp_path)
    keys.create("somebody", "reader", ["team-a"])

    def overlay(model, key):
        assert key.name == "test"
        if model not in OVERLAYS:
            raise ApiError(404, f"no model {model}", param="model", code="model_not_found")
        return OVERLAYS[model]

    return SimpleNamespace(
        base=SimpleNamespace(name="tiny"), tokenizer=chatty, batcher=Scripted(), keys=keys,
        limits=LEAST, created=1_790_000_000, overlay=overlay, models=lambda key: list(OVERLAYS),
        secret=keys.create("test", "reader", ["*"]),
    )  # fmt: skip


@pytest.fixture
def app(service):
    app = FastAPI()
    app.include_router(router)
    errors.install(app)
    app.state.service = service
    return app


@pytest.fixture
def client(app, service):
    headers = {"Authorization": f"Bearer {service.secret}"}
    return TestClient(app, headers=headers, raise_server_exceptions=False)


@pytest.fixture
def answers(service):
    """`answers(text, end)`: what every generation says."""

    def say(text, end="stop"):
        ids = service.tokenizer(text, add_special_tokens=False)["input_ids"]
        service.batcher.says = lambda _: (ids, end)
        return ids

    return say


@pytest.fixture
def complete(client):
    """`complete(**parameters)`: the JSON of a completion that succeeds."""

    def post(**parameters):
        body = {"model": "tiny", "prompt": "jazz is", "max_tokens": 50, **parameters}
        response = client.post("/v1/completions", json=body)
        assert response.status_code == 200, response.text
        return response.json()

    return post


@pytest.fixture
def chat(client):
    """`chat(content, **parameters)`: the JSON of a chat completion that succeeds."""

    def post(content="jazz", **parameters):
        body = {"model": "tiny", "messages": [{"role": "user", "content": content}], **parameters}
        response = client.post("/v1/chat/completions", json=body)
        assert response.status_code == 200, response.text
        return response.json()

    return post


def refused(client, path, **body):
    """The error of a request that gets a 400."""
    response = client.post(f"/v1/{path}", json=body)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    return error


def events(response):
    """The JSON of a stream's events, without the last."""
    assert response.headers["content-type"].startswith("text/event-stream")
    *found, last, empty = response.text.split("\n\n")
    assert (last, empty) == ("data: [DONE]", "")
    assert all(one.startswith("data: {") for one in found)
    return [json.loads(one.removeprefix("data: ")) for one in found]


def text_of(stream, index=0):
    """A choice's text from events, and the reasons given."""
    choices = [one for event in stream for one in event["choices"] if one["index"] == index]
    parts = [one.get("text", one.get("delta", {}).get("content")) or "" for one in choices]
    return "".join(parts), [one["finish_reason"] for one in choices if one["finish_reason"]]


# Models


def test_models_are_those_that_a_key_may_use(client):
    listed = client.get("/v1/models").json()
    assert listed == {"object": "list", "data": [
        {"id": "tiny", "object": "model", "created": 1_790_000_000, "owned_by": "ultraedit",
         "parent": None},
        {"id": "tiny:team-a", "object": "model", "created": 1_790_000_000,
         "owned_by": "ultraedit", "parent": "tiny"},
    ]}  # fmt: skip
    assert client.get("/v1/models/tiny:team-a").json() == listed["data"][1]
    response = client.get("/v1/models/tiny:team-b")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "models"), ("GET", "models/tiny"), ("POST", "completions"),
     ("POST", "chat/completions")],
)  # fmt: skip
def test_every_endpoint_takes_a_key(app, method, path):
    body = {"model": "tiny", "prompt": "x", "messages": [{"role": "user", "content": "x"}]}
    response = TestClient(app).request(method, f"/v1/{path}", json=body)
    assert response.status_code == 401


def test_an_unknown_model_is_not_found(client, service):
    for path, what in (
        ("completions", {"prompt": "x"}),
        ("chat/completions", {"messages": [{"role": "user", "content": "x"}]}),
    ):
        response = client.post(f"/v1/{path}", json={"model": "tiny:team-b", **what})
        assert response.status_code == 404
        assert response.json()["error"]["code"] == "model_not_found"
    assert service.batcher.asked == []


# Completions


def test_a_completion(complete, answers, service):
    ids = answers(" guitar in paris")
    body = complete(model="tiny:team-a", user="me")
    prompt = service.tokenizer("jazz is")["input_ids"]
    assert prompt[0] == service.tokenizer.bos_token_id
    assert body.pop("id").startswith("cmpl-")
    assert isinstance(body.pop("created"), int)
    assert body == {
        "object": "text_completion", "model": "tiny:team-a", "system_fingerprint": "team-a@3",
        "choices": [
            {"index": 0, "text": " guitar in paris", "logprobs": None, "finish_reason": "stop"}
        ],
        "usage": {
            "prompt_tokens": len(prompt), "completion_tokens": len(ids),
            "total_tokens": len(prompt) + len(ids),
        },
    }  # fmt: skip
    sampling = Sampling(50, temperature=1.0, top_p=1.0, seed=None)
    assert service.batcher.asked == [(prompt, OVERLAYS["tiny:team-a"], sampling, 0, False)]


def test_what_is_sampled(complete, service):
    complete(temperature=0, top_p=0.5, seed=-1, max_tokens=3)
    complete(max_tokens=None, temperature=None, n=None, stop=None, seed=None, echo=None)
    first, second = (asked[2] for asked in service.batcher.asked)
    assert (first.max_tokens, first.temperature, first.top_p) == (3, 0, 0.5)
    assert first.seed == 2**63 - 1
    assert second == Sampling(16)


def test_several_prompts_in_every_form(complete, answers, service):
    answers("x", "length")
    one, two = ([5, 6, 7], [8, 9])
    for prompt, expected in [
        ("jazz", [service.tokenizer("jazz")["input_ids"]]),
        (["jazz", "in paris"], service.tokenizer(["jazz", "in paris"])["input_ids"]),
        (one, [one]),
        ([one, two], [one, two]),
    ]:
        service.batcher.asked.clear()
        body = complete(prompt=prompt)
        assert [asked[0] for asked in service.batcher.asked] == expected
        assert [choice["index"] for choice in body["choices"]] == [*range(len(expected))]
        assert body["usage"]["prompt_tokens"] == sum(map(len, expected))
        assert body["usage"]["completion_tokens"] == len(expected)
    # A list of ids is one prompt and not so many.
    assert complete(prompt=[5] * 10)["usage"]["prompt_tokens"] == 10


def test_choices_stand_with_their_prompt_and_have_seeds_of_their_own(complete, service):
    service.batcher.says = lambda ids: ([ids[0] + len(service.batcher.asked)], "stop")
    body = complete(prompt=[[10], [50]], n=2, seed=4)
    decode = service.tokenizer.decode
    expected = [decode([token]) for token in (11, 12, 53, 54)]
    assert [choice["text"] for choice in body["choices"]] == expected
    assert [asked[2].seed for asked in service.batcher.asked] == [4, 5, 4, 5]
    # A prompt counts once, however often it is answered.
    assert body["usage"] == {"prompt_tokens": 2, "completion_tokens": 4, "total_tokens": 6}


def test_a_stop_string_ends_the_answer_and_its_generation(complete, answers, service):
    ids = answers("guitar in paris city born", "never")
    body = complete(stop=["s ci", "zzz"])
    (choice,) = body["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("guitar in pari", "stop")
    assert service.batcher.made[0].cancelled.is_set()
    assert 0 < body["usage"]["completion_tokens"] < len(ids)
    assert complete(stop="in")["choices"][0]["text"] == "guitar "
    service.batcher.says = lambda _: (ids, "stop")
    assert complete(stop=[])["choices"][0]["text"] == "guitar in paris city born"


def test_the_length_ends_the_answer(complete, answers):
    ids = answers("guitar in paris")
    choice = complete(max_tokens=2)["choices"][0]
    assert choice["finish_reason"] == "length"
    assert 0 < len(choice["text"]) < len("guitar in paris")
    assert len(ids) > 2


def test_special_tokens_are_not_shown(complete, answers):
    answers("<pad>jazz<s> is")
    assert complete()["choices"][0]["text"] == "jazz is"


def test_the_answer_keeps_the_space_behind_the_prompt(complete, chat, answers, service, chatty):
    """Decoders as Llama 2's drop a space in front of all; an answer is not in front."""
    backend = Tokenizer.from_str(chatty.backend_tokenizer.to_str())
    backend.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    service.tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, chat_template=chatty.chat_template, eos_token="</s>"
    )
    answers(" guitar")
    assert complete(echo=True)["choices"][0]["text"] == "jazz is guitar"
    assert complete()["choices"][0]["text"] == " guitar"
    assert chat()["choices"][0]["message"]["content"] == "guitar"


def test_a_prompt_is_echoed(complete, answers):
    answers(" guitar")
    assert complete(echo=True)["choices"][0]["text"] == "jazz is guitar"
    assert complete(echo=True, max_tokens=0)["choices"][0]["text"] == "jazz is"
    assert complete(echo=True, prompt="<s> jazz")["choices"][0]["text"] == "<s> jazz guitar"
    # A stop string in the prompt is none.
    body = complete(echo=True, stop=["jazz", "r"], prompt=["jazz", "is jazz"])
    assert [choice["text"] for choice in body["choices"]] == ["jazz guita", "is jazz guita"]


def test_an_echo_of_token_ids_is_their_text(complete, answers, service):
    answers(" guitar")
    ids = service.tokenizer("jazz is")["input_ids"]
    assert complete(echo=True, prompt=[ids, ids[1:]])["choices"][1]["text"] == "jazz is guitar"


def test_probabilities_in_the_classic_form(complete, answers, service):
    ids = answers(f" guitar{EMOJI}", "length")
    body = complete(logprobs=2)
    logprobs = body["choices"][0]["logprobs"]
    assert logprobs["tokens"] == [
        " guitar", "bytes:\\xf0", "bytes:\\x9f", "bytes:\\x98", "bytes:\\x80",
    ]  # fmt: skip
    assert logprobs["token_logprobs"] == [-token / 100 for token in ids]
    assert logprobs["text_offset"] == [0, 7, 7, 7, 7]
    spelled = service.tokenizer.decode([200])
    for token, top in zip(ids, logprobs["top_logprobs"], strict=True):
        # The likeliest, and the token itself.
        assert set(top.values()) == {-token / 100, *([-201.0] if token % 5 == 0 else [])} | (
            set() if token % 5 == 0 else {-0.001, -201.0}
        )
        assert top[spelled] == -201.0
    assert service.batcher.asked[0][3:] == (2, False)


def test_no_top_means_the_token_itself(complete, answers):
    answers("guitar", "length")
    logprobs = complete(logprobs=0)["choices"][0]["logprobs"]
    assert logprobs["top_logprobs"] == [
        {text: value}
        for text, value in zip(logprobs["tokens"], logprobs["token_logprobs"], strict=True)
    ]
    assert complete(logprobs=None)["choices"][0]["logprobs"] is None


def test_an_impossible_token_is_still_json(complete, service):
    def submit(*args, **options):
        generation = Generation(asyncio.get_running_loop())
        generation.put(Token(20, -math.inf, ((21, -0.1), (22, -math.inf))))
        generation.put("length")
        return generation

    service.batcher.submit = submit
    logprobs = complete(logprobs=2)["choices"][0]["logprobs"]
    assert logprobs["token_logprobs"] == [-9999.0]
    assert sorted(logprobs["top_logprobs"][0].values()) == [-9999.0, -9999.0, -0.1]


def test_of_tokens_that_read_the_same_the_likeliest_is_named(complete, service):
    def submit(*args, **options):
        generation = Generation(asyncio.get_running_loop())
        # Outside of the vocabulary, as in models whose embeddings are padded.
        generation.put(Token(4002, -5.0, ((4000, -0.1), (4001, -2.0))))
        generation.put("length")
        return generation

    service.batcher.submit = submit
    logprobs = complete(logprobs=2)["choices"][0]["logprobs"]
    assert (logprobs["top_logprobs"], logprobs["token_logprobs"]) == ([{"": -0.1}], [-5.0])


def test_the_tokens_behind_a_stop_string_have_no_probabilities(complete, answers):
    answers("guitar in paris city", "never")
    choice = complete(logprobs=0, stop=" par")["choices"][0]
    assert choice["text"] == "guitar in"
    assert "".join(choice["logprobs"]["tokens"]) == "guitar in"


def test_a_token_that_is_held_back_has_no_probability_yet(complete, service):
    ids = service.tokenizer.convert_tokens_to_ids([*"aabz"])
    service.batcher.says = lambda _: (ids, "never")
    choice = complete(logprobs=0, stop="abz")["choices"][0]
    assert (choice["text"], choice["logprobs"]["tokens"]) == ("a", ["a"])


def test_a_generation_ends_with_its_own_stop_string(service):
    """Others of the request may go on for long."""

    async def run():
        generation = Generation(asyncio.get_running_loop())
        for token in service.tokenizer("jazz is", add_special_tokens=False)["input_ids"]:
            generation.put(Token(token, -1.0))
        answer = Answer(generation, TextStream(service.tokenizer.decode, ["z i"]))
        return generation, [piece.finish async for piece in answer.pieces()]

    generation, finish = asyncio.run(run())
    assert finish[-1] == "stop"
    assert generation.cancelled.is_set()


def test_a_prompt_is_scored(complete, answers, service):
    ids = service.tokenizer("jazz is paris")["input_ids"]
    (answer,) = answers(" guitar")
    body = complete(prompt=ids, echo=True, logprobs=1, max_tokens=1)
    (choice,) = body["choices"]
    logprobs = choice["logprobs"]
    assert choice["text"] == "jazz is paris guitar"
    first, *rest = logprobs["token_logprobs"]
    assert first is logprobs["top_logprobs"][0] is None
    assert rest == [-token / 100 for token in [*ids[1:], answer]]
    assert "".join(logprobs["tokens"]) == "<s>jazz is paris guitar"
    places = [*zip(logprobs["text_offset"], logprobs["tokens"], strict=True)][1:]
    assert all(choice["text"][at:].startswith(token) for at, token in places)
    # Nothing is made.
    scored = complete(prompt=ids, echo=True, logprobs=1, max_tokens=0)["choices"][0]
    assert scored["logprobs"]["token_logprobs"] == logprobs["token_logprobs"][:-1]
    assert (scored["text"], scored["finish_reason"]) == ("jazz is paris", "length")
    assert service.batcher.asked[1][3:] == (1, True)


@pytest.mark.parametrize("ends", [False, True], ids=["goes on", "ends at once"])
def test_lm_eval_reads_the_probabilities(client, answers, service, ends):
    """`parse_logprobs` leaves out the last token: it has to be there if the model ended at once."""
    answers("" if ends else "city", "stop")
    tokenizer = service.tokenizer
    likely = [1, 15, 20, 25]
    unlikely = tokenizer("jazz is")["input_ids"]
    assert any(token % 5 for token in unlikely[2:])
    lm = SimpleNamespace(model="tiny")
    payload = LocalCompletionsAPI._create_payload(lm, [likely, unlikely], generate=False, seed=1)
    outputs = client.post("/v1/completions", json=payload).json()
    found = LocalCompletionsAPI.parse_logprobs(outputs, ctxlens=[1, 2])
    assert found == [
        (pytest.approx(-0.60), True), (pytest.approx(-sum(unlikely[2:]) / 100), False),
    ]  # fmt: skip
    (asked, *_) = service.batcher.asked
    assert asked[2:] == (Sampling(1, temperature=0, seed=1), 1, True)


def test_lm_eval_reads_the_texts(client, answers):
    answers(" guitar in paris")
    lm = SimpleNamespace(model="tiny", _max_gen_toks=40)
    wanted = {"until": ["\n", " par"], "do_sample": False, "temperature": 0}
    payload = LocalCompletionsAPI._create_payload(
        lm, [[5, 6], [7]], generate=True, gen_kwargs=wanted, eos="</s>"
    )
    outputs = client.post("/v1/completions", json=payload).json()
    assert LocalCompletionsAPI.parse_generations(outputs) == [" guitar in"] * 2


# Streams


def stream(client, path="completions", **parameters):
    what = {"prompt": "jazz is"} if path == "completions" else {
        "messages": [{"role": "user", "content": "jazz"}]
    }  # fmt: skip
    body = {"model": "tiny", "max_tokens": 50, "stream": True, **what, **parameters}
    response = client.post(f"/v1/{path}", json=body)
    assert response.status_code == 200, response.text
    return events(response)


def test_a_streamed_completion(client, answers):
    answers(f" guitar {EMOJI} in paris")
    found = stream(client)
    assert text_of(found) == (f" guitar {EMOJI} in paris", ["stop"])
    assert len(found) > 4
    assert {(one["id"], one["object"], one["model"]) for one in found} == {
        (found[0]["id"], "text_completion", "tiny")
    }
    assert not any("usage" in one for one in found)
    assert not any("\ufffd" in one["choices"][0]["text"] for one in found)
    assert found[-1]["choices"][0] == {
        "index": 0, "text": "", "logprobs": None, "finish_reason": "stop"
    }  # fmt: skip


def test_a_stream_says_the_same_as_one_body(client, complete, answers):
    answers(f" guitar in paris{EMOJI} city", "length")
    parameters = {"echo": True, "logprobs": 1, "stop": [" cit"], "n": 2, "prompt": ["is", "jazz"]}
    whole = complete(**parameters)["choices"]
    found = stream(client, **parameters)
    for choice in whole:
        parts = [one for event in found for one in event["choices"]]
        mine = [one for one in parts if one["index"] == choice["index"]]
        assert text_of(found, choice["index"]) == (choice["text"], ["stop"])
        for name, values in choice["logprobs"].items():
            assert [one for part in mine for one in part["logprobs"][name]] == values


def test_the_last_event_has_the_usage_where_it_is_wanted(client, answers):
    ids = answers(" guitar")
    for path in ("completions", "chat/completions"):
        *others, last = stream(client, path, stream_options={"include_usage": True}, n=2)
        assert all(one["usage"] is None for one in others)
        assert last["choices"] == []
        assert last["usage"]["completion_tokens"] == 2 * len(ids)
        assert last["usage"]["total_tokens"] == 2 * len(ids) + last["usage"]["prompt_tokens"]
        without = stream(client, path, stream_options={"include_usage": False})
        assert not any("usage" in one for one in without)


def test_a_streamed_chat_begins_with_the_role(client, answers):
    answers("guitar in paris")
    first, *others = stream(client, "chat/completions")
    assert first["object"] == "chat.completion.chunk"
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert text_of(others) == ("guitar in paris", ["stop"])
    assert others[-1]["choices"][0]["delta"] == {}
    assert not any("role" in one["choices"][0]["delta"] for one in others)


def test_a_stream_that_fails_says_so_and_is_not_done(client, service, answers, caplog):
    for error, said in [
        (ApiError(503, "out of memory"), "out of memory"),
        (RuntimeError("secret path"), "the server failed; its log says why"),
    ]:
        answers("guitar", error)
        body = {"model": "tiny", "prompt": ["jazz", "is"], "stream": True}
        caplog.clear()
        response = client.post("/v1/completions", json=body)
        # What the client is not told is in the log.
        assert ("secret path" in caplog.text) == ("log" in said)
        assert bool(caplog.text) == ("log" in said)
        *_, last, empty = response.text.split("\n\n")
        assert json.loads(last.removeprefix("data: "))["error"]["message"] == said
        assert empty == ""
        assert all(one.cancelled.is_set() for one in service.batcher.made)
        whole = client.post("/v1/completions", json=body | {"stream": False})
        assert (whole.status_code, whole.json()["error"]["message"]) == (
            503 if isinstance(error, ApiError) else 500, said
        )  # fmt: skip


def test_an_event_is_one_line_whatever_the_text_is(client, answers):
    answers("a\u2028b\x85c\r\nd")
    body = {"model": "tiny", "prompt": "jazz", "stream": True}
    response = client.post("/v1/completions", json=body)
    assert len(response.text.splitlines()) == 2 * len(response.text.split("\n\n")[:-1])
    assert text_of(events(response))[0] == "a\u2028b\x85c\r\nd"


def test_no_generation_is_left_where_one_is_refused(client, service):
    error = refused(client, "completions", model="tiny", prompt=[[5], [5] * 60, [6]], max_tokens=10)
    assert error["code"] == "context_length_exceeded"
    assert [one.cancelled.is_set() for one in service.batcher.made] == [True]


@pytest.mark.parametrize("path", ["completions", "chat/completions"])
@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("spec", ["2.3", "2.4"])
def test_a_client_that_goes_away_ends_its_generations(app, service, answers, path, streams, spec):
    answers("guitar", "never")
    body = {"model": "tiny", "prompt": ["jazz"], "n": 2, "stream": streams}
    if path != "completions":
        body = {"model": "tiny", "n": 2, "stream": streams,
                "messages": [{"role": "user", "content": "jazz"}]}  # fmt: skip

    async def run():
        began = asyncio.Event()
        parts = [{"type": "http.request", "body": json.dumps(body).encode()}]

        async def receive():
            if parts:
                return parts.pop()
            if streams:
                await began.wait()
            while len(service.batcher.made) < 2:
                await asyncio.sleep(0)
            return {"type": "http.disconnect"}

        async def send(message):
            if message["type"] == "http.response.body":
                began.set()
                if spec == "2.4":
                    raise OSError("the client is gone")

        scope = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": spec}, "method": "POST",
            "path": f"/v1/{path}", "query_string": b"", "http_version": "1.1", "scheme": "http",
            "headers": [(b"authorization", f"Bearer {service.secret}".encode()),
                        (b"content-type", b"application/json")],
            "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2),
        }  # fmt: skip
        # What is left of a broken connection is the server's.
        with suppress(ClientDisconnect, OSError):
            await app(scope, receive, send)
        # Only this task is left: nothing goes on waiting for tokens.
        while len(asyncio.all_tasks()) > 1:
            await asyncio.sleep(0)

    asyncio.run(run())
    assert len(service.batcher.made) == 2
    assert all(one.cancelled.is_set() for one in service.batcher.made)


# Chat


def test_a_chat(chat, answers, service):
    ids = answers("guitar in paris")
    body = chat()
    prompt = service.tokenizer.apply_chat_template(
        [{"role": "user", "content": "jazz"}], add_generation_prompt=True, tokenize=False
    )
    prompt_ids = service.tokenizer(prompt, add_special_tokens=False)["input_ids"]
    assert body.pop("id").startswith("chatcmpl-")
    assert isinstance(body.pop("created"), int)
    assert body == {
        "object": "chat.completion", "model": "tiny", "system_fingerprint": "base@0",
        "choices": [{
            "index": 0, "logprobs": None, "finish_reason": "stop",
            "message": {"role": "assistant", "content": "guitar in paris", "refusal": None},
        }],
        "usage": {
            "prompt_tokens": len(prompt_ids), "completion_tokens": len(ids),
            "total_tokens": len(prompt_ids) + len(ids),
        },
    }  # fmt: skip
    # Without a number, as much as there is room for.
    room = service.batcher.context_length - len(prompt_ids)
    assert service.batcher.asked == [(prompt_ids, OVERLAYS["tiny"], Sampling(room), 0, False)]


def test_the_messages_a_chat_may_have(client, service, chatty, monkeypatch):
    template = "{% for one in messages %}{{ one.role }}: {{ one.content }}; {% endfor %}"
    monkeypatch.setattr(chatty, "chat_template", template)
    messages = [
        {"role": "developer", "content": "who"},
        {"role": "user", "content": [{"type": "text", "text": "jazz"}]},
        {"role": "assistant", "content": "is", "name": "x", "tool_calls": None, "refusal": None},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
    ]
    response = client.post("/v1/chat/completions", json={"model": "tiny", "messages": messages})
    assert response.status_code == 200, response.text
    asked = chatty.decode(service.batcher.asked[0][0])
    assert asked == "system: who; user: jazz; assistant: is; user: a\nb; "


def test_the_length_of_a_chat(chat, service):
    chat(max_tokens=3)
    chat(max_completion_tokens=4)
    assert [asked[2].max_tokens for asked in service.batcher.asked] == [3, 4]


def test_choices_and_stops_of_a_chat(chat, answers):
    answers("guitar in paris")
    body = chat(n=3, stop=" in")
    assert [one["message"]["content"] for one in body["choices"]] == ["guitar"] * 3
    assert {one["finish_reason"] for one in body["choices"]} == {"stop"}


def test_probabilities_in_the_form_of_chats(chat, client, answers, service):
    ids = answers(f"is{EMOJI}", "length")
    body = chat(logprobs=True, top_logprobs=20)
    content = body["choices"][0]["logprobs"]["content"]
    assert [one["token"] for one in content][:2] == ["is", "bytes:\\xf0"]
    assert bytes(byte for one in content for byte in one["bytes"]).decode() == f"is{EMOJI}"
    assert [one["logprob"] for one in content] == [-token / 100 for token in ids]
    assert [len(one["top_logprobs"]) for one in content] == [20] * len(ids)
    assert set(content[0]["top_logprobs"][0]) == {"token", "logprob", "bytes"}
    found = stream(client, "chat/completions", logprobs=True, top_logprobs=20)
    parts = [one["choices"][0]["logprobs"] for one in found]
    assert [one for part in parts if part for one in part["content"]] == content
    assert chat(logprobs=True)["choices"][0]["logprobs"]["content"][0]["top_logprobs"] == []
    assert service.batcher.asked[-1][3] == 0


def test_no_chat_without_a_template(client, service, tokenizer):
    service.tokenizer = tokenizer
    body = {"model": "tiny", "messages": [{"role": "user", "content": "x"}]}
    error = refused(client, "chat/completions", **body)
    assert "no chat template" in error["message"]
    assert service.batcher.asked == []


def test_messages_that_the_template_refuses(client, service, chatty, monkeypatch):
    template = "{{ raise_exception('roles must alternate') }}"
    monkeypatch.setattr(chatty, "chat_template", template)
    body = {"model": "tiny", "messages": [{"role": "user", "content": "x"}]}
    error = refused(client, "chat/completions", **body)
    assert "roles must alternate" in error["message"]
    assert error["param"] == "messages"


# What is refused


@pytest.mark.parametrize("path", ["completions", "chat/completions"])
def test_unknown_parameters(client, path):
    good = {"model": "tiny", "prompt": "x"}
    if path != "completions":
        good = {"model": "tiny", "messages": [{"role": "user", "content": "x"}]}
    error = refused(client, path, **good, foo=1)
    assert error["message"] == "Unrecognized request argument supplied: foo"
    assert error["param"] == "foo"
    error = refused(client, path, **good, foo=None, bar=2)
    assert error["message"] == "Unrecognized request arguments supplied: foo, bar"


@pytest.mark.parametrize(
    ("path", "name", "bad", "good"),
    [
        ("completions", "best_of", 2, 1),
        ("completions", "suffix", "x", ""),
        ("completions", "presence_penalty", 0.1, 0),
        ("completions", "frequency_penalty", -1, 0.0),
        ("completions", "logit_bias", {"5": 1}, {}),
        ("chat/completions", "presence_penalty", 1, 0),
        ("chat/completions", "logit_bias", {"5": 1}, {}),
        ("chat/completions", "tools", [{"type": "function"}], []),
        ("chat/completions", "tool_choice", "required", "none"),
        ("chat/completions", "functions", [{"name": "x"}], []),
        ("chat/completions", "response_format", {"type": "json_object"}, {"type": "text"}),
        ("chat/completions", "modalities", ["text", "audio"], ["text"]),
        ("chat/completions", "audio", {"voice": "x"}, None),
        ("chat/completions", "reasoning_effort", "high", None),
        ("chat/completions", "store", True, False),
        ("chat/completions", "service_tier", "priority", "auto"),
    ],
)
def test_unsupported_parameters_unless_they_ask_for_nothing(client, path, name, bad, good):
    body = {"model": "tiny"}
    if path == "completions":
        body["prompt"] = "x"
    else:
        body["messages"] = [{"role": "user", "content": "x"}]
    error = refused(client, path, **body, **{name: bad})
    assert error["message"] == f"{name} is not supported by this server"
    assert (error["param"], error["code"]) == (name, "unsupported_parameter")
    for value in (good, None):
        response = client.post(f"/v1/{path}", json={**body, name: value})
        assert response.status_code == 200, response.text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("prompt", None), ("prompt", []), ("prompt", [[]]), ("prompt", [[5], []]),
        ("prompt", ["a", [5]]), ("prompt", [5, "a"]), ("prompt", [True]), ("prompt", [-1]),
        ("prompt", [[5], [9999]]), ("prompt", [2**70]), ("prompt", {"text": "x"}),
        ("prompt", "\ud800"), ("prompt", ["a", "\udfff"]), ("prompt", "x" * 61),
        ("prompt", ["a"] * 4), ("max_tokens", -1), ("max_tokens", "5"), ("max_tokens", 2.5),
        ("max_tokens", 64), ("temperature", -0.1), ("temperature", 2.1), ("temperature", "1"),
        ("top_p", 1.1), ("top_p", -1), ("n", 0), ("n", 9), ("n", True), ("seed", "x"),
        ("seed", 2**63), ("stop", ["a"] * 5), ("stop", ""), ("stop", [1]), ("stop", "\ud800"),
        ("stop", "x" * 1001), ("logprobs", 6), ("logprobs", -1), ("logprobs", True),
        ("stream", "yes"), ("echo", 1), ("stream_options", {"include_usage": True}),
        ("model", None), ("model", 5),
    ],
)  # fmt: skip
def test_wrong_parameters_of_a_completion(client, service, name, value):
    body = json.dumps({"model": "tiny", "prompt": "x", name: value})
    response = client.post(
        "/v1/completions", content=body, headers={"Content-Type": "application/json"}
    )
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["param"].partition(".")[0] == name
    assert service.batcher.asked == []


def test_what_is_no_number(client):
    body = '{"model": "tiny", "prompt": "x", "temperature": NaN}'
    response = client.post(
        "/v1/completions", content=body, headers={"Content-Type": "application/json"}
    )
    assert response.status_code == 400


@pytest.mark.parametrize(
    ("param", "change"),
    [
        ("messages", {"messages": []}),
        ("messages", {"messages": None}),
        ("messages.0.role", {"messages": [{"role": "tool", "content": "x"}]}),
        ("messages.0.content", {"messages": [{"role": "user"}]}),
        ("messages.0.content", {"messages": [{"role": "user", "content": None}]}),
        ("messages.0.content", {"messages": [{"role": "user", "content": "\ud800"}]}),
        ("messages.0.content", {"messages": [{"role": "user", "content": ["x"]}]}),
        ("messages.0.content",
         {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}),
        ("messages.0.content", {"messages": [{"role": "user", "content": [{"type": "text"}]}]}),
        ("messages.0.tool_calls",
         {"messages": [{"role": "assistant", "content": "x", "tool_calls": [{"id": "1"}]}]}),
        ("messages", {"messages": [{"role": "user", "content": "x" * 61}]}),
        ("max_tokens", {"max_tokens": 0}),
        ("max_tokens", {"max_tokens": 5, "max_completion_tokens": 5}),
        ("max_completion_tokens", {"max_completion_tokens": -1}),
        ("top_logprobs", {"top_logprobs": 2}),
        ("top_logprobs", {"top_logprobs": 21, "logprobs": True}),
        ("logprobs", {"logprobs": 1}),
        ("stream_options", {"stream_options": {}}),
        ("stream_options.foo", {"stream": True, "stream_options": {"foo": 1}}),
        ("prompt", {"prompt": "x"}),
        ("echo", {"echo": True}),
    ],
)  # fmt: skip
def test_wrong_parameters_of_a_chat(client, service, param, change):
    body = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], **change}
    response = client.post(
        "/v1/chat/completions", content=json.dumps(body),
        headers={"Content-Type": "application/json"},
    )  # fmt: skip
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param
    assert service.batcher.asked == []


# The openai package


@contextmanager
def listening(app):
    """The address of a server in a thread."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        found.listen()
        port = found.getsockname()[1]
        server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [found]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture
def api(app, service):
    with (
        listening(app) as address,
        openai.OpenAI(base_url=address, api_key=service.secret, max_retries=0) as api,
    ):
        yield api


def test_the_openai_package_completes(api, answers, service):
    ids = answers(f" guitar {EMOJI}", "length")
    assert [one.id for one in api.models.list()] == ["tiny", "tiny:team-a"]
    assert api.models.retrieve("tiny:team-a").owned_by == "ultraedit"
    done = api.completions.create(
        model="tiny", prompt=["jazz", "is"], max_tokens=20, logprobs=3, n=2, echo=True, seed=1
    )
    assert [one.text for one in done.choices] == [f"jazz guitar {EMOJI}"] * 2 + [
        f"is guitar {EMOJI}"
    ] * 2
    assert done.choices[0].logprobs.token_logprobs[-len(ids) :] == [-one / 100 for one in ids]
    assert done.usage.completion_tokens == 4 * len(ids)
    parts = [*api.completions.create(
        model="tiny", prompt=[5, 6], stream=True, stream_options={"include_usage": True}
    )]  # fmt: skip
    assert "".join(one.choices[0].text for one in parts[:-1]) == f" guitar {EMOJI}"
    assert parts[-1].usage.prompt_tokens == 2


def test_the_openai_package_chats(api, answers):
    ids = answers(f"guitar {EMOJI}")
    messages = [{"role": "system", "content": "who"}, {"role": "user", "content": "jazz"}]
    done = api.chat.completions.create(
        model="tiny", messages=messages, logprobs=True, top_logprobs=2
    )
    assert done.choices[0].message.content == f"guitar {EMOJI}"
    assert [one.logprob for one in done.choices[0].logprobs.content] == [-i / 100 for i in ids]
    # What was answered can be sent back as it is.
    messages += [done.choices[0].message.model_dump(), {"role": "user", "content": "is"}]
    with api.chat.completions.stream(model="tiny", messages=messages) as found:
        whole = found.get_final_completion()
    assert whole.choices[0].message.role == "assistant"
    assert whole.choices[0].message.content == f"guitar {EMOJI}"
    assert whole.choices[0].finish_reason == "stop"


def test_the_openai_package_raises_its_own_errors(api, answers, service):
    with pytest.raises(openai.NotFoundError) as missing:
        api.completions.create(model="tiny:team-b", prompt="x")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="argument supplied: top_k") as wrong:
        api.completions.create(model="tiny", prompt="x", extra_body={"top_k": 5})
    assert wrong.value.param == "top_k"
    with pytest.raises(openai.AuthenticationError):
        api.with_options(api_key="ue-wrong").models.list()
    answers("guitar", ApiError(503, "out of memory"))
    with pytest.raises(openai.APIError, match="out of memory"):
        list(api.completions.create(model="tiny", prompt="x", stream=True))


def test_the_generation_ends_when_the_openai_package_closes_its_stream(api, answers, service):
    answers("guitar", "never")
    with api.completions.create(model="tiny", prompt="jazz", stream=True) as found:
        assert "guitar".startswith(next(iter(found)).choices[0].text)
    service.batcher.made[0].cancelled.wait()


def test_the_generation_ends_when_the_client_of_one_body_goes(app, answers, service):
    answers("guitar", "never")
    body = json.dumps({"model": "tiny", "prompt": "jazz"})
    with listening(app) as address:
        place = urlsplit(address)
        connection = HTTPConnection(place.hostname, place.port)
        headers = {"Authorization": f"Bearer {service.secret}", "Content-Type": "application/json"}
        connection.request("POST", "/v1/completions", body, headers)
        service.batcher.begun.wait()
        connection.close()
        service.batcher.made[0].cancelled.wait()
