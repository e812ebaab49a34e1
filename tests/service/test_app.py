import asyncio
import json

import pytest

from ultraedit.service.app import build_app


async def answered(app, path, *, cancel=False):
    """The status, headers and JSON that an application sends; `cancel` ends it halfway."""
    sent = []
    waits = asyncio.Event()

    async def receive():
        waits.set()
        await asyncio.Event().wait()

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http", "method": "POST", "path": path, "headers": [], "query_string": b"",
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2), "scheme": "http",
        "http_version": "1.1", "root_path": "",
    }  # fmt: skip
    task = asyncio.create_task(app(scope, receive, send))
    if cancel:
        await waits.wait()
        task.cancel()
    await task
    start, body = sent
    headers = {name.decode(): value.decode() for name, value in start["headers"]}
    return start["status"], headers, json.loads(body["body"])


def test_a_request_that_the_end_of_the_server_cuts_off_may_be_tried_again(service):
    status, headers, body = asyncio.run(answered(build_app(service), "/v1/sets", cancel=True))
    assert (status, headers["retry-after"]) == (503, "1")
    assert body["error"]["message"] == "the server is stopping"


def test_a_server_that_stops_is_not_ready(running):
    assert running.client.get("/readyz").json() == {"status": "ok"}
    running.service.batcher.drain()
    answer = running.client.get("/readyz")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert running.client.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/v1/sets", "GET, POST"),
        ("PATCH", "/v1/sets/base", "DELETE, GET"),
        ("GET", "/v1/sets/base/undo", "POST"),
        ("POST", "/", "GET"),
    ],
)
def test_a_method_that_a_path_does_not_take(running, method, path, allowed):
    answer = running.client.request(method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
    assert answer.json()["error"]["type"] == "invalid_request_error"
