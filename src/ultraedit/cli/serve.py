"""`ultraedit serve`: a model that can be corrected while it answers."""

from __future__ import annotations

import logging
import socket
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

import typer

from ultraedit.cli.console import quiet_libraries
from ultraedit.errors import InputError


def serve(
    model: Annotated[str, typer.Argument(help="Hub id, folder, .gguf file, or a known name.")],
    data: Annotated[Path, typer.Option(help="The server's folder: edit sets, keys, audit log.")],
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    name: Annotated[
        str | None, typer.Option(help="The model's name for clients; by default its own.")
    ] = None,
    method: Annotated[str, typer.Option(help="How edits are written.")] = "auto",
    modules: Annotated[str, typer.Option(help="Names, separated by commas, or auto.")] = "auto",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, float16 or auto.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    requests_per_minute: Annotated[int, typer.Option(min=1, help="Of one key.")] = 600,
    edits: Annotated[int, typer.Option(min=1, help="In one request, at most.")] = 256,
    overlay_megabytes: Annotated[
        int, typer.Option(min=1, help="Memory that edit sets may take together.")
    ] = 1024,
    grace: Annotated[
        float, typer.Option(min=0, help="Seconds for running answers and turns at the end.")
    ] = 30.0,
) -> None:
    """Answer over OpenAI's API, and take corrections while doing so.

    The page is at http://HOST:PORT/. The first start prints a key for everything.
    """
    try:
        import uvicorn

        from ultraedit.service.app import build_app
        from ultraedit.service.base import Base
        from ultraedit.service.limits import Limits
        from ultraedit.service.service import Service
    except ImportError as error:
        raise InputError(f"serving needs: pip install 'ultraedit[serve]' ({error})") from error
    quiet_libraries()
    listening = _listen(host, port)
    logging.getLogger("ultraedit").info("reading %s", model)
    base = Base.load(model, name, dtype=dtype, device=device)
    limits = Limits(requests_per_minute=requests_per_minute, edits=edits)
    service = Service(
        base, data, limits=limits, method=method, modules=modules,
        most_bytes=overlay_megabytes * 2**20,
    )  # fmt: skip
    secret = service.keys.create_first()
    if secret is not None:
        typer.echo(f"a key for everything, shown only now: {secret}")
    if not _is_loopback(host):
        typer.echo("warning: this listens beyond this machine, without TLS", err=True)
    config = uvicorn.Config(
        build_app(service, grace=grace), log_level="warning",
        timeout_graceful_shutdown=max(1, int(grace)), server_header=False, proxy_headers=False,
    )  # fmt: skip
    taken = listening.getsockname()[1]
    typer.echo(f"{base.name} answers at http://{f'[{host}]' if ':' in host else host}:{taken}")
    uvicorn.Server(config).run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    """A socket at an address, taken before anything slow begins.

    Raises:
        InputError: it cannot be had.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"cannot listen on {host}, port {port}: {reason}") from error


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
