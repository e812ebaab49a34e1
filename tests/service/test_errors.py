import json
import logging

import pytest
from fastapi import FastAPI, HTTPException, Query, Request
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, field_validator
from starlette.testclient import TestClient

from ultraedit.errors import InputError, TurnRefusedError, UltraEditError
from ultraedit.service.errors import ApiError, as_api_error, install


class Case(BaseModel):
    model_config = ConfigDict(extra="forbid")
    prompt: str
    target: str | list[str]

    @field_validator("prompt")
    @classmethod
    def not_empty(cls, prompt):
        if not prompt:
            raise ValueError("no prompt")
        return prompt


class Body(BaseModel):
    edits: list[Case] = Field(min_length=1)


RAISED = {
    "input": InputError("lr is negative"),
    "refused": TurnRefusedError("not finite"),
    "other": UltraEditError("cannot write /srv/secret/file"),
    "unknown": RuntimeError("at /srv/secret/file"),
    "api": ApiError(404, "no such thing", param="thing", code="thing_not_found"),
    "told": ApiError(500, "the turn failed"),
    "http": HTTPException(418, "a teapot", headers={"X-Kind": "pot"}),
}


@pytest.fixture(scope="module")
def client():
    app = FastAPI()
    install(app)

    @app.post("/edits")
    def edits(body: Body):
        return len(body.edits)

    @app.get("/edits")
    def listed(limit: int = Query(ge=1)):
        return limit

    @app.post("/by-hand")
    async def by_hand(request: Request):
        return Case.model_validate(await request.json()).prompt

    @app.get("/raise/{what}")
    def fail(what: str):
        raise RAISED[what]

    return TestClient(app, raise_server_exceptions=False)


def error_of(response, status):
    assert response.status_code == status
    assert response.headers["content-type"] == "application/json"
    assert [*response.json()] == ["error"]
    error = response.json()["error"]
    assert [*error] == ["message", "type", "param", "code"]
    return error


@pytest.mark.parametrize(
    ("body", "param", "said"),
    [
        ({"edits": [{"prompt": "p", "target": 5}]}, "edits.0.target", "valid string"),
        ({"edits": [{"prompt": "p", "target": ["a", 5]}]}, "edits.0.target", "valid string"),
        ({"edits": [{"prompt": "p"}]}, "edits.0.target", "required"),
        ({"edits": [{"prompt": "", "target": "t"}]}, "edits.0.prompt", ": no prompt"),
        ({"edits": [{"prompt": "p", "target": "t", "k": 1}]}, "edits.0.k", "not permitted"),
        ({"edits": [{"prompt": "p", "target": "t"}, 7]}, "edits.1", "dictionary"),
        ({"edits": []}, "edits", "at least 1"),
        ({}, "edits", "required"),
        ([], None, "the body"),
    ],
)
def test_a_wrong_field_is_named(client, body, param, said):
    error = error_of(client.post("/edits", json=body), 400)
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert said in error["message"]


def test_a_field_of_one_form_of_several_is_named_without_the_form():
    class Named(BaseModel):
        name: str

    class Numbered(BaseModel):
        number: int

    app = FastAPI()
    install(app)

    @app.post("/")
    def take(what: dict[str, list[Named | Numbered]]):
        return what

    client = TestClient(app)
    missing = error_of(client.post("/", json={"a": [{"name": "x"}, {}]}), 400)
    wrong = error_of(client.post("/", json={"a": [{"name": 5}]}), 400)
    assert (missing["param"], wrong["param"]) == ("a.1.name", "a.0.name")


def test_a_parameter_of_the_address_is_named(client):
    assert error_of(client.get("/edits?limit=0"), 400)["param"] == "limit"
    assert error_of(client.get("/edits"), 400)["param"] == "limit"


@pytest.mark.parametrize("path", ["/edits", "/by-hand"])
def test_a_body_that_is_no_json(client, path):
    headers = {"content-type": "application/json"}
    error = error_of(client.post(path, content=b'{"edits": [', headers=headers), 400)
    assert error["message"].startswith("the body is not JSON: Expecting value")
    assert error["param"] is None


def test_models_that_are_checked_by_hand_are_reported_alike(client):
    error = error_of(client.post("/by-hand", json={"prompt": "p"}), 400)
    assert (error["param"], error["message"]) == ("target", "target: Field required")


def test_unknown_routes_and_methods(client):
    error = error_of(client.get("/nowhere"), 404)
    assert (error["type"], error["message"]) == ("not_found_error", "Not Found: GET /nowhere")
    response = client.delete("/by-hand")
    assert error_of(response, 405)["type"] == "invalid_request_error"
    assert response.headers["allow"] == "POST"
    assert client.get("/raise/http").headers["x-kind"] == "pot"


@pytest.mark.parametrize(
    ("what", "status", "kind", "message"),
    [
        ("input", 400, "invalid_request_error", "lr is negative"),
        ("refused", 409, "conflict_error", "not finite"),
        ("other", 500, "api_error", "the server failed; its log says why"),
        ("unknown", 500, "api_error", "the server failed; its log says why"),
        ("api", 404, "not_found_error", "no such thing"),
        ("told", 500, "api_error", "the turn failed"),
    ],
)
def test_exceptions(client, what, status, kind, message, caplog):
    with caplog.at_level(logging.ERROR, "ultraedit"):
        error = error_of(client.get(f"/raise/{what}"), status)
    assert (error["type"], error["message"]) == (kind, message)
    logged = [record.exc_info[1] for record in caplog.records]
    # Who raises an ApiError has said in the log what there is to say.
    assert logged == ([RAISED[what]] if what in ("other", "unknown") else [])


def test_param_and_code_are_told(client):
    error = error_of(client.get("/raise/api"), 404)
    assert (error["param"], error["code"]) == ("thing", "thing_not_found")


@pytest.mark.parametrize(
    ("error", "kind", "headers"),
    [
        (ApiError(401, "who?"), "authentication_error", {"WWW-Authenticate": "Bearer"}),
        (ApiError(403, "no"), "permission_error", {}),
        (ApiError(413, "long"), "invalid_request_error", {}),
        (ApiError(429, "slow", retry_after=2.1), "rate_limit_error", {"Retry-After": "3"}),
        (ApiError(429, "slow", retry_after=0.01), "rate_limit_error", {"Retry-After": "1"}),
        (ApiError(503, "later"), "api_error", {"Retry-After": "1"}),
        (ApiError(404, "m", type="invalid_request_error"), "invalid_request_error", {}),
    ],
)
def test_the_status_decides_type_and_headers(error, kind, headers):
    assert (error.type, error.headers) == (kind, headers)
    assert as_api_error(error) is error


def test_an_answer_may_have_more_than_the_error():
    content = json.loads(ApiError(409, "refused").response(job={"id": "job-1"}).body)
    assert content["job"] == {"id": "job-1"}
    assert content["error"]["message"] == "refused"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
PARTS = JSON | st.fixed_dictionaries({"prompt": JSON, "target": JSON})


@settings(max_examples=150, deadline=None)
@given(st.fixed_dictionaries({"edits": st.lists(PARTS, max_size=3) | JSON}) | JSON)
def test_whatever_the_body_the_answer_is_a_result_or_an_error(client, body):
    response = client.post(
        "/edits", content=json.dumps(body), headers={"content-type": "application/json"}
    )
    if response.status_code != 200:
        error = error_of(response, 400)
        # The named place is there, or is the missing one.
        value = body
        for field in error["param"].split(".") if error["param"] else []:
            value = value[int(field)] if isinstance(value, list) else value.get(field)
