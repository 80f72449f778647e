"""The composition root: the only place where settings, engine, runner, metrics and routes meet."""

import logging
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import FrameType

import uvicorn
from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from service import __version__
from service.api import access, errors, health, openai, schema
from service.api.deps import Parts
from service.engines.contract import Engine
from service.errors import DarkroomError
from service.metrics import Metrics
from service.recipe import load_presets
from service.runner import Runner
from service.settings import Settings

PAGE = Path(__file__).parent / "api" / "playground"

log = logging.getLogger("darkroom")


def create_app(settings: Settings, engine: Engine | None = None) -> FastAPI:
    """The service as an ASGI application; it owns its engine, opened from the settings if none is given."""
    metrics = Metrics()
    engine = engine or open_engine(settings, metrics)
    runner = Runner(engine, metrics, concurrency=settings.max_concurrency, queue=settings.max_queue)
    for model in engine.models.values():
        metrics.model.labels(model.name, model.digest, engine.name, engine.precision).set(1)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await warm(runner)
        yield
        await run_in_threadpool(runner.close)

    # the usual /docs page loads its scripts from other hosts; the schema itself is at /openapi.json
    app = FastAPI(title="Darkroom", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.parts = Parts(settings, engine, runner, metrics, load_presets())
    app.include_router(openai.router)
    app.include_router(health.router)
    app.add_middleware(access.Access, metrics=metrics)
    errors.install(app)
    schema.install(app)
    app.router.default = Page(app.router.not_found)
    return app


async def warm(runner: Runner) -> None:
    """One real network call. An engine that is away is no reason to die: readiness keeps asking."""
    try:
        await runner.ready()
    except DarkroomError as error:
        log.warning("not ready: %s", error.message)


class Page:
    """The playground's files where no route matches, so that they never hide a route's 404 or 405."""

    def __init__(self, otherwise: ASGIApp) -> None:
        self._files, self._otherwise = StaticFiles(directory=PAGE, html=True), otherwise

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ours = scope["type"] == "http" and scope["method"] in ("GET", "HEAD") and not scope["path"].startswith("/v1/")
        await (self._files if ours else self._otherwise)(scope, receive, send)


class Server(uvicorn.Server):
    """uvicorn that drains: after SIGTERM nothing is admitted, what is in progress is finished, then it stops."""

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        limit = math.ceil(settings.drain_seconds)
        super().__init__(
            uvicorn.Config(app, log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=limit)
        )
        self._runner: Runner = app.state.parts.runner
        self._drain_seconds, self._drain_ends = settings.drain_seconds, 0.0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """First signal: drain. Second: stop now."""
        if self._runner.draining:
            super().handle_exit(sig, frame)
        self._runner.drain()
        self._drain_ends = time.monotonic() + self._drain_seconds

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: is the drain over?"""
        if self._runner.draining and (self._runner.idle or time.monotonic() > self._drain_ends):
            self.should_exit = True
        return await super().on_tick(counter)
