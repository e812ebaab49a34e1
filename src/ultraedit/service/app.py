"""The web application: routes, page, limits and headers around one service."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from importlib.resources import files
from ipaddress import ip_address

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ultraedit.service import errors, limits, openai_api, sets_api
from ultraedit.service.errors import ApiError
from ultraedit.service.keys import key_of
from ultraedit.service.service import Service

# The page loads nothing from elsewhere, and nothing may frame it or post to it.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
    " connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
PAGE = {
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
}


def build_app(service: Service, *, grace: float = 30.0) -> FastAPI:
    """The application of a service, which ends with it.

    Args:
        service: Started.
        grace: Seconds that running answers and turns get at the end.
    """

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        yield
        await service.close(grace)

    app = FastAPI(
        title="ultraedit", version=version("ultraedit"), lifespan=life, redoc_url=None,
        docs_url=None, description="A language model that can be corrected while it answers.",
        responses={**errors.RESPONSES},
    )  # fmt: skip
    app.state.service = service
    errors.install(app)
    # The outermost comes last: headers stand on every answer, refused ones too.
    limits.install(app, service.limits)
    app.add_middleware(_Observed, service=service)
    app.include_router(openai_api.router)
    app.include_router(sets_api.router)
    folder = files("ultraedit.service") / "page"

    @app.get("/", include_in_schema=False)
    def page() -> Response:
        return HTMLResponse((folder / "index.html").read_text(encoding="utf-8"))

    @app.get("/{name}", include_in_schema=False)
    def part(name: str) -> Response:
        if name not in PAGE:
            raise ApiError(404, f"Not Found: GET /{name}")
        content = (folder / name).read_text(encoding="utf-8")
        return Response(content, headers={"content-type": PAGE[name]})

    @app.get("/healthz")
    def healthz() -> dict[str, str]:
        """Whether the process answers."""
        return {"status": "ok"}

    @app.get("/readyz")
    def readyz() -> dict[str, str]:
        """Whether it takes requests: not while it is stopping."""
        if not service.batcher.accepting:
            raise ApiError(503, "the server is stopping")
        return {"status": "ok"}

    @app.get("/metrics", response_class=PlainTextResponse)
    def metrics(request: Request) -> Response:
        """For Prometheus; from this machine, or with a key."""
        if not _is_local(request):
            key_of(request)
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    # `/{name}` would take them.
    app.router.routes.sort(key=lambda route: getattr(route, "path", "") == "/{name}")
    return app


def _is_local(request: Request) -> bool:
    # A proxy on this machine asks for others.
    if "forwarded" in request.headers or "x-forwarded-for" in request.headers:
        return False
    try:
        return request.client is not None and ip_address(request.client.host).is_loopback
    except ValueError:
        return False


class _Observed:
    """ASGI middleware: security headers on every answer, and counts of all requests."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.metrics = app, service.metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, started = time.perf_counter(), False

        async def sent(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [
                    *message.get("headers", ()),
                    *((name.encode(), value.encode()) for name, value in HEADERS.items()),
                ]
                route = getattr(scope.get("route"), "path", "other")
                self.metrics.requests.labels(route, str(message["status"])).inc()
                self.metrics.first_byte.labels(route).observe(time.perf_counter() - began)
            await send(message)

        try:
            await self.app(scope, receive, sent)
        except asyncio.CancelledError:
            # The server ends before the answer does: the client may try again.
            if not started:
                await ApiError(503, "the server is stopping").response()(scope, receive, sent)
