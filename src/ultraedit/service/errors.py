"""What a request that failed gets: one JSON shape, the one that clients of OpenAI's API read."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import BaseRoute, Match

from ultraedit.errors import InputError, TurnRefusedError, UltraEditError

log = logging.getLogger(__name__)

TYPES = {
    401: "authentication_error", 403: "permission_error", 404: "not_found_error",
    409: "conflict_error", 429: "rate_limit_error",
}  # fmt: skip
# Statuses after which the same request may succeed.
TEMPORARY = (429, 503)
# Where a path may have routes of several methods.
METHODS = ("DELETE", "GET", "POST")


class Told(BaseModel):
    """What went wrong, in OpenAI's words."""

    message: str
    type: str
    param: str | None
    code: str | None


class Failure(BaseModel):
    """The answer to every request that failed."""

    error: Told


# For the document. With 4XX in it, FastAPI does not add its own 422, which nobody gets.
RESPONSES: Mapping[int | str, dict[str, Any]] = {
    status: {"model": Failure} for status in (400, 401, 403, 404, 409, 413, 429, "4XX", 500, 503)
}


class ApiError(UltraEditError):
    """A request that is answered with an error.

    Args:
        status: HTTP status, 4xx or 5xx.
        message: For the caller; clients see it.
        type: OpenAI's class of the error; None for the one that goes with the status.
        param: The field of the request that is wrong, as in `edits.0.target`.
        code: For programs, as in `model_not_found`.
        retry_after: Seconds until a further try makes sense; with 429 and 503 at least one.

    Attributes:
        headers: Of the answer: WWW-Authenticate, Retry-After.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str | None = None,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        usual = "api_error" if status >= 500 else "invalid_request_error"
        self.type = type or TYPES.get(status, usual)
        self.headers: dict[str, str] = {}
        if status == 401:
            self.headers["WWW-Authenticate"] = "Bearer"
        if status in TEMPORARY or retry_after is not None:
            self.headers["Retry-After"] = str(max(1, math.ceil(retry_after or 1)))

    def to_dict(self) -> dict[str, Any]:
        """The error object, without the `error` around it."""
        return {
            "message": self.message, "type": self.type, "param": self.param, "code": self.code,
        }  # fmt: skip

    def response(self, **also: Any) -> Response:
        """The answer; `also` are further members of its JSON beside `error`."""
        # Only ASCII: a message may quote half a surrogate pair, which UTF-8 cannot hold.
        content = json.dumps({"error": self.to_dict(), **also})
        return Response(content, self.status, self.headers, media_type="application/json")


def as_api_error(error: Exception) -> ApiError:
    """What the caller is told of an exception: nothing at all where the server is at fault."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, RequestValidationError):
        place, *fields = error.errors()[0]["loc"]
        return _invalid(error.errors()[0], fields, error.body if place == "body" else None)
    if isinstance(error, ValidationError):
        return _invalid(error.errors()[0], error.errors()[0]["loc"], None)
    if isinstance(error, json.JSONDecodeError):
        return ApiError(400, f"the body is not JSON: {error.msg}")
    if isinstance(error, InputError):
        return ApiError(400, str(error))
    if isinstance(error, TurnRefusedError):
        return ApiError(409, str(error))
    return ApiError(500, "the server failed; its log says why")


def install(app: FastAPI) -> None:
    """Let an application answer every failure in this shape."""

    async def answer(request: Request, error: Exception) -> Response:
        told = as_api_error(error)
        if told.status == 500 and told is not error:
            log.error("%s %r failed", request.method, request.url.path, exc_info=error)
        return told.response()

    async def refuse(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        what = f"{error.detail}: {request.method} {request.url.path}"
        response = ApiError(error.status_code, what).response()
        response.headers.update(error.headers or {})
        if error.status_code == 405:
            # Starlette names those of one route, and each method of a path is a route here.
            response.headers["Allow"] = ", ".join(_methods(request))
        return response

    for kind in (
        RequestValidationError, ValidationError, json.JSONDecodeError, UltraEditError, Exception,
    ):  # fmt: skip
        app.add_exception_handler(kind, answer)
    app.add_exception_handler(HTTPException, refuse)


def _methods(request: Request) -> list[str]:
    """Those that the path of a request takes."""
    routes: Sequence[BaseRoute] = request.app.routes
    return [
        method for method in METHODS
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL
               for route in routes)
    ]  # fmt: skip


def _invalid(error: Mapping[str, Any], fields: Sequence[str | int], body: Any) -> ApiError:
    """What one of pydantic's errors is to the caller."""
    if error["type"] == "json_invalid":
        return ApiError(400, f"the body is not JSON: {error['ctx']['error']}")
    if body is not None:
        fields = _in_body(fields, body, error["type"] == "missing")
    param = ".".join(map(str, fields)) or None
    message = str(error["msg"]).removeprefix("Value error, ")
    return ApiError(400, f"{param or 'the body'}: {message}", param=param)


def _in_body(fields: Sequence[str | int], body: Any, is_missing: bool) -> list[str | int]:
    """Where in a body an error is: pydantic also names the form it tried, as in `list[str]`."""
    found: list[str | int] = []
    for field in fields:
        is_place = isinstance(field, int) and isinstance(body, list)
        if (is_place and field in range(len(body))) or (isinstance(body, dict) and field in body):
            body = body[field]
            found.append(field)
    return [*found, fields[-1]] if is_missing and fields else found
