"""The composition root: the only place where settings, engine, runner, metrics and routes meet."""

import gc
import logging
import math
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from service import __version__
from service.admission import Admission
from service.api import access, errors, health, jobs, openai, schema, upscale
from service.api.deps import Parts
from service.background import Background
from service.cost import Costs
from service.engines.contract import Engine
from service.engines.factory import around, open_engine
from service.enlargement import Enlargement
from service.errors import DarkroomError, Unavailable
from service.jobs import Jobs
from service.keys import Keys
from service.metrics import Metrics
from service.recipe import Preset, Recipe, load_presets, stored
from service.runner import Runner
from service.settings import Settings
from service.tracing import Tracing, open_tracing

PAGE = Path(__file__).parent / "api" / "playground"

log = logging.getLogger("darkroom")


def create_app(settings: Settings, engine: Engine | None = None, tracing: Tracing | None = None) -> FastAPI:
    """The service as an ASGI application; it owns its engine, opened from the settings if none is given."""
    metrics, costs, tracing = Metrics(), Costs.kept(settings), tracing or open_tracing(settings.otlp_endpoint)
    gate = around(engine, settings, (metrics, costs)) if engine else open_engine(settings, (metrics, costs))
    keys = Keys(settings.keys_file)
    admission = Admission(
        costs,
        metrics,
        keys.budgets,
        places=gate.places,
        concurrency=settings.max_concurrency,
        max_wait=settings.max_wait_seconds,
    )
    runner = Runner(gate, metrics, admission, concurrency=settings.max_concurrency)
    for model in gate.models.values():
        metrics.model.labels(model.name, model.digest, gate.name, gate.precision).set(1)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await warm(runner)
        if parts.jobs:
            parts.jobs.start()
        yield
        await run_in_threadpool(runner.close)
        if parts.jobs:
            await parts.jobs.close()
        costs.save()
        if tracing:
            await run_in_threadpool(tracing.close)

    # the usual /docs page loads its scripts from other hosts; the schema itself is at /openapi.json
    app = FastAPI(title="Darkroom", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    presets = load_presets(settings.presets_dir)
    kept = background(settings, gate, presets, runner, metrics)
    app.state.parts = parts = Parts(settings, gate, runner, metrics, keys, presets, kept)
    app.include_router(openai.router)
    app.include_router(upscale.router)
    app.include_router(jobs.router)
    app.include_router(health.router)
    app.add_middleware(access.Access, metrics=metrics, tracing=tracing)
    errors.install(app)
    schema.install(app)
    app.router.default = Page(app.router.not_found)
    return app


def background(
    settings: Settings, engine: Engine, presets: Mapping[str, Preset], runner: Runner, metrics: Metrics
) -> Background | None:
    """Long work, where the settings have a folder for it."""

    def settle(fields: Mapping[str, Any]) -> Recipe | Enlargement:
        return stored(fields, presets, engine.models, engine.name, engine.precision)

    if settings.jobs_dir is None:
        return None
    return Background(Jobs(settings.jobs_dir, metrics), runner, metrics, settings, settle)


async def warm(runner: Runner) -> None:
    """One real network call. An engine that is away is no reason to die: readiness keeps asking."""
    try:
        await runner.ready()
    except DarkroomError as error:
        log.warning("not ready: %s", error.message)


class Files(StaticFiles):
    """The playground's files, which load nothing from anywhere else."""

    def file_response(self, *arguments: Any, **options: Any) -> Response:
        """With the policy that holds the page to it."""
        response = super().file_response(*arguments, **options)
        response.headers["content-security-policy"] = "default-src 'self'; img-src 'self' blob: data:"
        response.headers["x-content-type-options"] = "nosniff"
        return response


class Page:
    """Files where no route matches, so that they never hide a route's 404 or 405."""

    def __init__(self, otherwise: ASGIApp) -> None:
        self._files, self._otherwise = Files(directory=PAGE, html=True), otherwise

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ours = scope["type"] == "http" and scope["method"] in ("GET", "HEAD") and not scope["path"].startswith("/v1/")
        await (self._files if ours else self._otherwise)(scope, receive, send)


class Server(uvicorn.Server):
    """uvicorn that drains: after SIGTERM nothing is admitted, what is in progress is finished, then it stops."""

    def __init__(self, app: FastAPI, settings: Settings, started: Callable[[], None]) -> None:
        limit = math.ceil(settings.drain_seconds)
        super().__init__(
            uvicorn.Config(app, log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=limit)
        )
        self._runner: Runner = app.state.parts.runner
        self._drain_seconds, self._drain_ends = settings.drain_seconds, 0.0
        self._on_started = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """The engine is warm and the listener open when this returns."""
        await super().startup(sockets)
        self._on_started()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """First signal: drain. Second: stop now."""
        if self._runner.draining:
            super().handle_exit(sig, frame)
        self._runner.drain()
        self._drain_ends = time.monotonic() + self._drain_seconds

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: is the drain over? What is not done by then is cancelled."""
        if self._runner.draining and (self._runner.idle or time.monotonic() > self._drain_ends):
            self._runner.cancel()
            self.should_exit = True
        return await super().on_tick(counter)


def serve(settings: Settings, announce: Callable[[str, Parts], None], engine: Engine | None = None) -> None:
    """Serve until a signal; ``announce`` gets the address once pictures can be asked for."""
    handler = logging.StreamHandler()
    handler.setFormatter(access.JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    with bound(settings.host, settings.port) as listener:
        app = create_app(settings, engine)
        gc.freeze()  # searching all this for garbage would stop every thread for 28 ms at a time
        host, port = listener.getsockname()[:2]
        address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        Server(app, settings, lambda: announce(address, app.state.parts)).run([listener])


def bound(host: str, port: int) -> socket.socket:
    """A socket bound early, so that a port in use is found before the engine is opened."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise Unavailable(f"cannot listen on {host}:{port}: {error.strerror}") from error
    return listener
