"""Long work: accepted now, finished whatever becomes of this process, watched by whoever comes back."""

import asyncio
import base64
import json
import logging
import secrets
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from math import inf
from time import monotonic, time
from typing import Any, TypeVar

from service import uploads
from service.admission import Place
from service.engines.contract import Ticket
from service.enlargement import Enlargement, final
from service.errors import Cancelled, Conflict, DarkroomError, EngineFailure, NotFound, Overloaded, Unavailable
from service.jobs import RETRY, Event, Job, Jobs
from service.making import Made, News, Order, Preview
from service.metrics import Metrics
from service.recipe import Recipe
from service.runner import Admitted, Runner
from service.settings import Settings

log = logging.getLogger("darkroom")

TRIES = 3  # deaths of the service with a job in progress after which the job is suspected
SWEEP = 60.0  # seconds between looks for what has been kept long enough
PIXEL = 4  # bytes that one takes in a file, at most

T = TypeVar("T")
Settle = Callable[[Mapping[str, Any]], Recipe | Enlargement]


@dataclass
class Live:
    """A job that this process is to finish."""

    job: Job
    steps: list[int] = field(init=False)  # done, by number of the picture
    admitted: Admitted | None = None
    task: "asyncio.Task[None] | None" = None
    recorded: threading.Event = field(default_factory=threading.Event)  # on disk
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    over: bool = False

    def __post_init__(self) -> None:
        done = {picture["number"] for picture in self.job.pictures}
        self.steps = [self.job.steps if number in done else 0 for number in range(self.job.count)]

    def wake(self) -> None:
        """In the event loop: there is something new."""
        self.changed.set()
        self.changed = asyncio.Event()


class Background:
    """Between HTTP and the runner. ``settle`` makes a recipe of a stored one, or says why it cannot run here."""

    def __init__(self, jobs: Jobs, runner: Runner, metrics: Metrics, settings: Settings, settle: Settle) -> None:
        self._jobs, self._runner, self._metrics, self._settle = jobs, runner, metrics, settle
        self.keep, self._room = settings.jobs_keep_seconds, settings.jobs_max_bytes
        self._patience = settings.max_wait_seconds
        self._live: dict[str, Live] = {}
        self._accepting = asyncio.Lock()

    def start(self) -> None:
        """Go on with what was accepted before."""
        for job in self._jobs.unfinished():
            live = Live(job)
            live.recorded.set()
            self._follow(live, self._resumed(live))
        self._sweeping = asyncio.create_task(self._sweep())

    async def close(self) -> None:
        """After the runner: what is not done waits for the next start."""
        self._sweeping.cancel()
        await asyncio.gather(*(live.task for live in self._live.values() if live.task), return_exceptions=True)
        self._jobs.close()

    async def accept(self, order: Order, idempotency_key: str | None, digest: str, upload: bytes = b"") -> Job:
        """A new job, or the one that came with this key; refused as any other order is."""
        job = _new(order, self._runner.steps(order.recipes[0]), idempotency_key, digest, len(upload))
        async with self._accepting:
            if idempotency_key and (found := await asyncio.to_thread(self._jobs.keyed, job.owner, idempotency_key)):
                if found.digest != digest:
                    raise Conflict("this key came with another body before", field="Idempotency-Key")
                return found
            await asyncio.to_thread(self._check_room, job)
            live = Live(job)
            admitted = self._begin(live, order, range(len(order.recipes)))
            try:
                await asyncio.to_thread(self._jobs.add, job, upload)
            except BaseException:
                admitted.pictures.cancel()
                raise
            finally:
                live.recorded.set()
            self._follow(live, self._runner.finish(admitted))
        return job

    async def find(self, job_id: str, owner: str) -> Job:
        """A job of this owner."""
        job = await asyncio.to_thread(self._jobs.find, job_id)
        if job is None or job.owner != owner:
            raise NotFound(f"there is no job {job_id[:100]!r}", field="job_id")
        return job

    def place(self, job: Job) -> Place | None:
        """Where it stands in the queue, while it does."""
        live = self._live.get(job.id)
        return live.admitted.place() if live and live.admitted and job.status == "queued" else None

    def steps_done(self, job: Job) -> int:
        """Of all its pictures."""
        live = self._live.get(job.id)
        return sum(live.steps) if live else len(job.pictures) * job.steps

    async def picture(self, job: Job, number: str) -> bytes:
        """The file of a picture that is there."""
        with suppress(FileNotFoundError):
            if number in (str(picture["number"]) for picture in job.pictures):
                return await asyncio.to_thread(self._jobs.picture(job, int(number)).read_bytes)
        raise NotFound(f"this job has no picture {number[:100]!r}, or not yet", field="number")

    async def remove(self, job: Job) -> None:
        """Forget a job; what runs of it stops at its next network call."""
        live = self._live.get(job.id)
        await asyncio.to_thread(self._jobs.remove, job)
        if live and live.task:
            live.task.cancel()

    async def has_event(self, job: Job, after: int) -> bool:
        """Whether there is one with a higher number."""
        return await asyncio.to_thread(self._jobs.event, job.id, after) is not None

    async def watch(self, job: Job, after: int, patience: float) -> AsyncIterator[Event | None]:
        """The events after this number, then new ones until the end; None where none came for ``patience`` seconds."""
        live, told = self._live.get(job.id) or Live(job, over=True), 0
        while True:
            over, changed = live.over, live.changed
            while found := await asyncio.to_thread(self._jobs.event, job.id, after):
                after = found.number or after
                yield found
            if over:
                break
            told, before = sum(live.steps), told
            if told != before:
                yield Event(None, "job.progress", {"steps_done": told, "steps": job.steps * job.count})
            try:
                await asyncio.wait_for(changed.wait(), patience)
            except TimeoutError:
                yield None
        if await asyncio.to_thread(self._jobs.find, job.id) is None:
            yield Event(None, "job.cancelled", {})

    def _begin(self, live: Live, order: Order, numbers: Sequence[int]) -> Admitted:
        """Hand the order to the runner; its pictures have these numbers in the job."""
        loop = asyncio.get_running_loop()

        def tell(index: int, what: News) -> None:
            live.recorded.wait()
            self._note(live, numbers[index], what)
            loop.call_soon_threadsafe(live.wake)

        live.admitted = self._runner.start(order, tell, accepted=live.recorded.is_set())
        return live.admitted

    def _note(self, live: Live, number: int, what: News) -> None:
        """In a worker thread."""
        job = live.job
        if isinstance(what, Made):
            self._jobs.keep(job, number, what.data, {"seed": what.recipe.seed, "timings": what.timings})
        elif isinstance(what, Preview):
            shown = {"number": number, "partial_image_index": what.index, "step": what.step, "steps": job.steps}
            data = shown | {
                "b64_json": base64.b64encode(what.data).decode(),
                "output_format": job.spec["output_format"],
            }
            self._jobs.record(job.id, "job.partial_image", data, was="in_progress", status="in_progress")
        elif isinstance(what, int):
            if what == 0:
                self._jobs.record(job.id, "job.in_progress", {}, was="queued", status="in_progress")
            live.steps[number] = what

    def _follow(self, live: Live, work: Awaitable[object]) -> None:
        self._live[live.job.id] = live
        live.task = asyncio.create_task(self._end(live, work))

    async def _end(self, live: Live, work: Awaitable[object]) -> None:
        """Wait for the work of a job and record how it ended."""
        job = live.job
        failure: DarkroomError | None = None
        try:
            await work
        except asyncio.CancelledError:
            failure = Cancelled("the job was stopped")
        except DarkroomError as error:
            failure = error
        except Exception:
            log.exception("internal error", extra={"fields": {"job": job.id}})
            failure = DarkroomError(f"internal error; the log has it under {job.id}")
        if self._runner.draining and isinstance(failure, Cancelled | Unavailable):
            write = partial(self._jobs.record, job.id, "job.queued", {}, was="in_progress", status="queued")
        else:
            write = partial(self._jobs.finish, job.id, failure)
            self._count(job, failure)
        try:
            with suppress(Unavailable):  # the next start will do the work again
                await self._insist(partial(asyncio.to_thread, write))
        finally:
            del self._live[job.id]
            live.over = True
            live.wake()

    async def _insist(self, act: Callable[[], Awaitable[T]]) -> T:
        """What it returns as soon as it is not Unavailable any more; that only where the service stops."""
        while True:
            try:
                return await act()
            except Unavailable:
                if self._runner.draining:
                    raise
                await asyncio.sleep(RETRY)

    def _count(self, job: Job, failure: DarkroomError | None) -> None:
        outcome, seconds = failure.code if failure else "ok", time() - job.created
        labels = "jobs", job.spec["recipes"][0].get("preset", "none"), outcome
        self._metrics.requests.labels(*labels).inc()
        self._metrics.duration.labels(*labels).observe(seconds)
        facts = {"job": job.id, "request_id": job.spec["request_id"], "outcome": outcome, "seconds": round(seconds, 6)}
        log.info("job", extra={"fields": facts})

    async def _resumed(self, live: Live) -> None:
        """What is left of a job that an earlier process accepted."""
        job = live.job
        if job.crashes >= TRIES:
            raise EngineFailure(f"the service died {job.crashes} times while this was in progress")
        await self._insist(self._runner.ready)
        async with self._accepting:
            left = [number for number, steps in enumerate(live.steps) if steps < job.steps]
            if not left:
                return
            admitted = self._begin(live, await asyncio.to_thread(self._order, job, left), left)
        await self._runner.finish(admitted)

    def _order(self, job: Job, left: Sequence[int]) -> Order:
        spec = job.spec
        deadline = spec["deadline"] and monotonic() + spec["deadline"] - time()
        ticket = Ticket(spec["request_id"], tenant=job.owner, deadline=deadline, patience=self._patience)
        recipes = [self._settle(spec["recipes"][number]) for number in left]
        order = Order(recipes, spec["output_format"], spec["quality"], spec["previews"], ticket)
        upload = self._jobs.upload(job)
        return replace(order, pixels=uploads.opened(upload, inf)) if upload else order

    def _check_room(self, job: Job) -> None:
        used, oldest = self._jobs.used(job.owner)
        if used + job.bytes > self._room:
            self._metrics.refusals.labels("storage").inc()
            wait = self.keep if oldest is None else max(1.0, oldest + self.keep - time())
            message = f"jobs take {used} of {self._room} bytes and this one may need {job.bytes}; delete some"
            raise Overloaded(message, retry_after=wait)

    async def _sweep(self) -> None:
        while True:
            with suppress(Unavailable):
                await asyncio.to_thread(self._jobs.expire, time() - self.keep)
            await asyncio.sleep(min(self.keep, SWEEP))


def _new(order: Order, steps: int, idempotency_key: str | None, digest: str, upload: int) -> Job:
    ticket, first = order.ticket, order.recipes[0]
    spec = {
        "recipes": [recipe.model_dump(mode="json") for recipe in order.recipes],
        "steps": steps,
        "output_format": order.output_format,
        "quality": order.quality,
        "previews": order.previews,
        "request_id": ticket.request_id,
        "deadline": ticket.deadline and time() + ticket.deadline - monotonic(),
        "upload": upload,  # bytes
    }
    size = len(json.dumps(spec))
    width, height = final(first)
    each = PIXEL * width * height * (1 + 2 * order.previews)  # previews in base64
    most = upload + size + len(order.recipes) * (each + size)
    return Job(f"job-{secrets.token_hex(16)}", ticket.tenant, spec, most, idempotency_key, digest, time())
