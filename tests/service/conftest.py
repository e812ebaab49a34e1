import asyncio
import threading
import time
from dataclasses import dataclass

import httpx2
import pytest
import uvicorn

from ultraedit.service.app import build_app
from ultraedit.service.base import Base
from ultraedit.service.service import Service


@pytest.fixture
def folder(build, chatty, tmp_path):
    """A tiny model on disk."""
    build("llama").save_pretrained(tmp_path / "toy")
    chatty.save_pretrained(tmp_path / "toy")
    return tmp_path / "toy"


@pytest.fixture
def base(folder):
    return Base.load(str(folder))


@pytest.fixture
def service_of(base, tmp_path):
    """`service_of(**options)`: in the same folder every time; the one before has ended."""
    made = []

    def start(**options):
        stop()
        made.append(Service(base, tmp_path / "data", **{"anchors": 48, "chat": "off"} | options))
        return made[-1]

    def stop():
        while made:
            asyncio.run(made.pop().close(60))

    yield start
    stop()


@pytest.fixture
def service(service_of):
    return service_of()


@dataclass
class Running:
    """A server in a thread, and a client of it with a key for everything."""

    url: str
    key: str
    service: Service
    client: httpx2.Client

    def with_key(self, name, role, *sets):
        """A client with a key of its own."""
        secret = self.service.keys.create(name, role, sets)
        return client_of(self.url, secret)


def client_of(url, secret):
    return httpx2.Client(
        base_url=url, headers={"Authorization": f"Bearer {secret}"}, timeout=120, trust_env=False
    )


class Started:
    """A service behind uvicorn on a free port, as a context manager."""

    def __init__(self, service):
        self.service = service

    def __enter__(self):
        app = build_app(self.service)
        config = uvicorn.Config(app, port=0, log_level="warning", lifespan="off")
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)
        (socket,) = self.server.servers[0].sockets
        url = f"http://127.0.0.1:{socket.getsockname()[1]}"
        secret = self.service.keys.create_first() or self.service.keys.create("again", "admin", "*")
        self.client = client_of(url, secret)
        return Running(url, secret, self.service, self.client)

    def __exit__(self, *_):
        self.client.close()
        self.server.should_exit = True
        self.thread.join()


@pytest.fixture
def started():
    """`with started(service) as running`: over HTTP."""
    return Started


@pytest.fixture
def running(service, started):
    with started(service) as found:
        yield found


@pytest.fixture
def server(tmp_path, started):
    """The embedded model, with the default method, behind HTTP."""
    service = Service(Base.load("demo"), tmp_path / "data")
    with started(service) as found:
        yield found
    asyncio.run(service.close(60))
