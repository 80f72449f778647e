"""Where async ends: admission by count, worker threads, cancellation, drain, readiness."""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from service import images
from service.diffusion.types import Array, Denoised, Denoiser
from service.engines.contract import Engine, Ticket
from service.errors import Cancelled, EngineFailure, InvalidRequest, Overloaded, Unavailable
from service.metrics import Metrics
from service.pipeline import generate
from service.recipe import Recipe

FRESH = 30.0  # seconds for which one successful network call proves the engine
PROBE_LIMIT = 20.0  # seconds a probe of the idle engine may take
GUESS = 5.0  # seconds per picture, until one has been made

After = Callable[["Progress", Array, float], None]  # after an evaluation: progress, x0, its seconds


@dataclass(frozen=True)
class Order:
    """The pictures of one request and the files they become."""

    recipes: Sequence[Recipe]
    output_format: images.Format = "png"
    quality: int = 100
    ticket: Ticket = field(default_factory=Ticket)


@dataclass(frozen=True)
class Made:
    """One picture as a file, the recipe that made it, seconds by part."""

    data: bytes
    recipe: Recipe
    timings: dict[str, float]


class Progress:
    """The outermost denoiser wrapper: interrupts between network calls, counts, tells ``after`` what it saw."""

    def __init__(self, recipe: Recipe, ticket: Ticket, after: After) -> None:
        self.total = len(recipe.sigmas) - 1
        self.step = self.evaluations = 0
        self._sigmas, self._ticket, self._after = recipe.sigmas[:-1], ticket, after

    def __call__(self, denoise: Denoiser) -> Denoiser:
        def watched(x: Array, sigma: float) -> Denoised:
            self._ticket.check()
            started = time.perf_counter()
            denoised = denoise(x, sigma)
            self.evaluations += 1
            # found by sigma, not by counting: Heun evaluates twice in a step
            self.step = max(self.step, 1, sum(level >= sigma for level in self._sigmas))
            self._after(self, denoised.x0, time.perf_counter() - started)
            return denoised

        return watched

    @property
    def stage(self) -> str:
        """Where a cancelled picture stood."""
        return "text_encode" if self.step == 0 else "denoise" if self.step < self.total else "decode"


class Runner:
    """At most ``concurrency`` pictures at once and ``queue`` waiting; more is refused with the time to come back."""

    def __init__(self, engine: Engine, metrics: Metrics, *, concurrency: int, queue: int) -> None:
        self._engine, self._metrics = engine, metrics
        self._concurrency, self._capacity = concurrency, concurrency + queue
        self._pool = ThreadPoolExecutor(concurrency, thread_name_prefix="sampler")
        self._lock = threading.Lock()
        self._admitted = 0
        self._tickets: list[Ticket] = []
        self._recent: deque[float] = deque(maxlen=32)  # seconds of the last pictures
        self._proven = float("-inf")  # when a network call last succeeded
        self._busy_since = 0.0
        self._probe: asyncio.Future[None] | None = None
        self.draining = False
        metrics.in_progress.set_function(lambda: min(self._admitted, concurrency))
        metrics.waiting.set_function(lambda: max(self._admitted - concurrency, 0))

    @property
    def idle(self) -> bool:
        return self._admitted == 0

    async def make(self, order: Order) -> list[Made]:
        """All pictures of an order, concurrently. Cancelling this call stops them at their next network call."""
        self._admit(len(order.recipes))
        self._tickets.append(order.ticket)
        futures = [self._submit(order, recipe) for recipe in order.recipes]
        try:
            return list(await asyncio.gather(*map(asyncio.wrap_future, futures)))
        except Cancelled as error:
            if self.draining:
                raise Unavailable("this server stopped before the work was done", retry_after=FRESH) from error
            raise
        finally:  # one failed or nobody waits: the others stop too
            order.ticket.cancelled.set()
            for future in futures:
                future.cancel()
            self._tickets.remove(order.ticket)

    def cancel(self, request_id: str | None = None) -> int:
        """Cancel the orders of one request id, or all; how many there were."""
        tickets = [t for t in self._tickets if request_id in (None, t.request_id)]
        for ticket in tickets:
            ticket.cancelled.set()
        return len(tickets)

    def drain(self) -> None:
        """Admit nothing from now on; what is in progress goes on."""
        self.draining = True

    def close(self) -> None:
        """Stop what is in progress at its next network call, then release the engine."""
        self.drain()
        self.cancel()
        self._pool.shutdown(cancel_futures=True)
        self._engine.close()

    async def ready(self) -> None:
        """Raise Unavailable unless a real network call succeeded recently; an idle engine is asked for one."""
        if self.draining:
            raise Unavailable("draining: this server is about to stop", retry_after=FRESH)
        now = time.monotonic()
        if now - self._proven < FRESH or (not self.idle and now - self._busy_since < FRESH):
            return
        if not self.idle:
            raise Unavailable(f"no network call has succeeded for {FRESH:.0f} s", retry_after=FRESH)
        await self._ask()

    async def _ask(self) -> None:
        """One probe at a time, however many ask."""
        if self._probe is None or self._probe.done():
            self._probe = asyncio.ensure_future(asyncio.to_thread(self._engine.health))
        try:
            await asyncio.wait_for(asyncio.shield(self._probe), PROBE_LIMIT)
        except TimeoutError as error:
            raise Unavailable("the engine does not answer", retry_after=FRESH) from error
        except EngineFailure as error:
            raise Unavailable(error.message, retry_after=FRESH) from error
        self._proven = time.monotonic()

    def _admit(self, pictures: int) -> None:
        if self.draining:
            raise self._refused("draining", Unavailable("draining: this server is about to stop", retry_after=FRESH))
        if pictures > self._capacity:
            raise InvalidRequest(f"at most {self._capacity} pictures fit here at once", field="n")
        with self._lock:
            excess = self._admitted + pictures - self._capacity
            if excess > 0:
                wait = max(1.0, excess / self._concurrency * self._mean())
                message = f"{self._admitted} pictures are in progress or waiting; try again in {wait:.0f} s"
                raise self._refused("queue_full", Overloaded(message, retry_after=wait))
            if self._admitted == 0:
                self._busy_since = time.monotonic()
            self._admitted += pictures

    def _refused(self, reason: str, error: Exception) -> Exception:
        self._metrics.refusals.labels(reason).inc()
        return error

    def _mean(self) -> float:
        return fmean(self._recent) if self._recent else GUESS

    def _submit(self, order: Order, recipe: Recipe) -> "Future[Made]":
        future = self._pool.submit(self._picture, order, recipe, time.perf_counter())
        future.add_done_callback(self._release)
        return future

    def _release(self, future: "Future[Any]") -> None:
        with self._lock:
            self._admitted -= 1
        if future.cancelled():
            self._metrics.cancellations.labels("queue").inc()

    def _picture(self, order: Order, recipe: Recipe, submitted: float) -> Made:
        """One picture from its recipe to its bytes, in a worker thread."""
        started = time.perf_counter()

        def evaluated(progress: Progress, _: Array, seconds: float) -> None:
            self._proven = time.monotonic()
            self._metrics.step.observe(seconds)
            if progress.evaluations == 1:
                self._metrics.first_step.observe(time.perf_counter() - submitted)

        progress = Progress(recipe, order.ticket, evaluated)
        try:
            picture = generate(self._engine, recipe, order.ticket, progress)
        except Cancelled:
            self._metrics.cancellations.labels(progress.stage).inc()
            raise
        except EngineFailure:
            self._proven = float("-inf")
            raise
        encoding = time.perf_counter()
        data = images.encode(picture.pixels, recipe.model_dump(mode="json"), order.output_format, order.quality)
        ended = time.perf_counter()
        self._recent.append(ended - started)
        parts = {"queue": started - submitted, **picture.timings, "encode": ended - encoding}
        for part in ("queue", "text_encode", "denoise", "decode", "encode"):
            self._metrics.parts.labels(part).observe(parts[part])
        return Made(data, recipe, {**parts, "total": ended - submitted})
