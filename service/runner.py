"""Where async ends: worker threads, cancellation, drain, readiness."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from heapq import heappop, heappush
from time import monotonic, perf_counter

from service.admission import Admission, Place, Share
from service.engines.contract import Engine, Ticket
from service.enlargement import Enlargement
from service.errors import Cancelled, DeadlineExceeded, EngineFailure, Unavailable
from service.making import Made, Maker, Order, Tell
from service.metrics import Metrics
from service.recipe import Recipe

FRESH = 30.0  # seconds for which one successful network call proves the engine
PROBE_LIMIT = 20.0  # seconds a probe of the idle engine may take
DRAINING = "draining: this server is about to stop"


@dataclass(frozen=True)
class Admitted:
    """An order in the house. ``pictures`` cancelled is work stopped at its next network call."""

    order: Order
    pictures: "asyncio.Future[list[Made]]"
    place: Callable[[], Place]


class Runner:
    """At most ``concurrency`` pictures at once; others wait as admission allows, what is due first goes first."""

    def __init__(self, engine: Engine, metrics: Metrics, admission: Admission, *, concurrency: int) -> None:
        self._engine, self._metrics, self._admission = engine, metrics, admission
        self._maker = Maker(engine, metrics)
        self._pool = ThreadPoolExecutor(concurrency, thread_name_prefix="sampler")
        self._lock = threading.Lock()
        self._futures: dict[Future[Made], Share] = {}  # admitted and not done
        self._waiting: list[tuple[tuple[float, int], Future[Made], Callable[[], Made]]] = []  # a heap
        self._tickets: list[Ticket] = []
        self._busy_since = 0.0
        self._probe: asyncio.Future[None] | None = None
        self.draining = False
        metrics.in_progress.set_function(lambda: min(len(self._futures), concurrency))
        metrics.waiting.set_function(lambda: max(len(self._futures) - concurrency, 0))

    @property
    def idle(self) -> bool:
        return not self._futures

    def start(self, order: Order, tell: Tell = lambda *_: None, *, accepted: bool = False) -> Admitted:
        """Admit or refuse now (what was ``accepted`` before has room). ``tell`` is called from worker threads."""
        shares = self._admit(order, accepted)
        futures = [self._submit(order, number, share, tell) for number, share in enumerate(shares)]
        pictures = asyncio.gather(*map(asyncio.wrap_future, futures))
        pictures.add_done_callback(lambda _: self._settle(order, futures))
        return Admitted(order, pictures, lambda: self._admission.place(shares[0]))

    async def finish(self, admitted: Admitted) -> list[Made]:
        """The pictures of an order, or why there are none. Cancelling this call cancels the order."""
        deadline = admitted.order.ticket.deadline
        try:
            async with asyncio.timeout(deadline and deadline - monotonic()):
                made = await admitted.pictures
        except (TimeoutError, DeadlineExceeded) as error:
            self._metrics.deadlines.labels("missed").inc()
            raise DeadlineExceeded("the deadline of the request has passed", field="deadline_ms") from error
        except Cancelled as error:
            if self.draining:
                raise Unavailable("this server stopped before the work was done", retry_after=FRESH) from error
            raise
        if deadline is not None:
            self._metrics.deadlines.labels("met").inc()
        return made

    def steps(self, recipe: Recipe | Enlargement) -> int:
        """What progress counts."""
        return self._maker.steps(recipe)

    def needed(self, recipe: Recipe, ticket: Ticket, pictures: int = 1) -> float | None:
        """The deadline that so many pictures of this recipe need, in seconds, beside the queue; None: not known yet."""
        return self._admission.needed(recipe, self._engine.models[recipe.model], ticket, pictures)

    async def make(self, order: Order) -> list[Made]:
        """All pictures of an order, concurrently."""
        return await self.finish(self.start(order))

    def cancel(self, request_id: str | None = None, tenant: str | None = None) -> int:
        """Cancel the orders of one request id (of one tenant), or all; how many there were."""
        tickets = [t for t in self._tickets if request_id in (None, t.request_id) and tenant in (None, t.tenant)]
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
        for future in list(self._futures):
            future.cancel()
        self._pool.shutdown()
        self._engine.close()

    async def ready(self) -> None:
        """Raise Unavailable unless a real network call succeeded recently; an engine without work is asked for one."""
        if self.draining:
            raise Unavailable(DRAINING, retry_after=FRESH)
        now = monotonic()
        if now - self._maker.proven < FRESH or (not self.idle and now - self._busy_since < FRESH):
            return
        if any(share.samples for share in list(self._futures.values())):
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
        self._maker.proven = monotonic()

    def _admit(self, order: Order, accepted: bool) -> list[Share]:
        if self.draining:
            raise self._admission.refused("draining", Unavailable(DRAINING, retry_after=FRESH))
        model = self._engine.models[order.recipes[0].model]
        shares = self._admission.admit(order.recipes, model, order.ticket, accepted=accepted)
        with self._lock:
            if not self._futures:
                self._busy_since = monotonic()
            self._tickets.append(order.ticket)
        return shares

    def _submit(self, order: Order, number: int, share: Share, tell: Tell) -> "Future[Made]":
        future: Future[Made] = Future()
        with self._lock:
            self._futures[future] = share
            make: Callable[[], Made] = partial(self._maker.picture, order, number, share, tell, perf_counter())
            heappush(self._waiting, (share.turn, future, make))
        future.add_done_callback(lambda done: self._release(done, share))
        self._pool.submit(self._next)
        return future

    def _next(self) -> None:
        """Make the picture that is due first of those that wait."""
        with self._lock:
            _, future, make = heappop(self._waiting)
            if not future.set_running_or_notify_cancel():
                return
            self._futures[future].started = True
        try:
            future.set_result(make())
        except BaseException as error:
            future.set_exception(error)
            del future  # or the error would hold itself, by this frame

    def _release(self, future: "Future[Made]", share: Share) -> None:
        self._admission.release(share)
        with self._lock:
            del self._futures[future]
        if future.cancelled():
            self._metrics.cancellations.labels("queue").inc()

    def _settle(self, order: Order, futures: "Sequence[Future[Made]]") -> None:
        """All pictures are there, or one failed, or nobody waits: what still runs of the order stops."""
        order.ticket.cancelled.set()
        for future in futures:
            future.cancel()
        self._tickets.remove(order.ticket)
