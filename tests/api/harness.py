"""The real application on a real uvicorn on loopback, over the closed-form engine."""

import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx

from service.api.deps import Parts
from service.app import Server, bound, create_app
from service.engines.contract import Engine, Ticket
from service.engines.gaussian import GaussianEngine
from service.settings import Settings


class Held(GaussianEngine):
    """The closed-form engine whose network waits while ``go`` is clear: work that lasts as long as a test wants."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        self.calls: list[Ticket] = []

    def predict(self, *args: object) -> object:  # type: ignore[override]
        self.calls.append(args[-1])  # type: ignore[arg-type]
        assert self.go.wait(30)
        return super().predict(*args)  # type: ignore[arg-type]


@dataclass
class Running:
    """A served application, its parts and a client for it."""

    url: str
    parts: Parts
    server: Server
    client: httpx.Client = field(repr=False)

    def post(self, body: object = None, path: str = "/v1/images/generations", **options: object) -> httpx.Response:
        return self.client.post(path, json=body, **options)  # type: ignore[arg-type]

    def value(self, name: str, **labels: str) -> float:
        """One sample of the service's metrics, 0 where there is none yet."""
        return self.parts.metrics.registry.get_sample_value(name, labels) or 0.0


@contextmanager
def serving(engine: Engine | None = None, **settings: object) -> Iterator[Running]:
    """An application over ``engine`` on a free port, stopped at the end."""
    started = threading.Event()
    # what one test learns of costs is not the next one's
    with tempfile.TemporaryDirectory() as folder, bound("127.0.0.1", 0) as listener:
        chosen = Settings(**{"engine": "gaussian", "cache_dir": folder, **settings})
        app = create_app(chosen, engine or GaussianEngine())
        server = Server(app, chosen, started.set)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        assert started.wait(20)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            with httpx.Client(base_url=url, timeout=30) as client:
                yield Running(url, app.state.parts, server, client)
        finally:
            if isinstance(engine, Held):
                engine.go.set()
            server.should_exit = True
            thread.join(20)
    assert not thread.is_alive()


def eventually(condition: object, seconds: float = 20) -> None:
    """Wait until ``condition()`` holds; fail if it never does."""
    ends = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < ends, "it never came to hold"
        time.sleep(0.005)
