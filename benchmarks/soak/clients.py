"""Clients, polite and rude, and the hand on the switch."""

import asyncio
import base64
import json
import random
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from typing import Any

import httpx

from benchmarks.soak.report import Report
from benchmarks.soak.service import PATIENCE, Service
from benchmarks.soak.wishes import BAD, FORMATS, PAGES, SEEDS, Wish

ROUTE = "/v1/images/generations"
CLIENTS = 8
HASTE = 0.05  # seconds after which a rude client is gone, at most
SAMPLES = 20  # of memory
IDLE = (
    "darkroom_pictures_in_progress",
    "darkroom_pictures_waiting",
    'darkroom_jobs{state="queued"}',
    'darkroom_jobs{state="in_progress"}',
)


class Interrupted(Exception):
    """The service went away under a request."""


class Soak:
    """One run against one service."""

    def __init__(self, service: Service, bodies: Sequence[Mapping[str, Any]], seed: int) -> None:
        self._service, self._bodies, self._random = service, bodies, random.Random(seed)
        self.report = Report()
        self._alone: dict[Wish, str] = {}  # digest of the file
        self._jobs: list[tuple[str, Wish]] = []
        self._up, self._switch = asyncio.Event(), asyncio.Lock()
        self._life = self._named = self._begun = 0
        self._due: dict[int, Callable[[], Awaitable[None]]] = {}
        self._kinds = {
            self.picture: 30,
            self.file: 10,
            self.stream: 10,
            self.hang_up: 15,
            self.cancel: 8,
            self.job: 10,
            self.deleted_job: 4,
            self.bad_input: 8,
            self.page: 5,
        }

    async def run(self, requests: int, restarts: int, killing: Sequence[Callable[[], None]] = ()) -> Report:
        """Learn, soak, compare."""
        started = time.monotonic()
        self._up.set()
        await self._learn()
        for number in range(restarts):
            self._due[requests * 2 * (number + 1) // (5 * (restarts + 1))] = self._restart
        for number, kill in enumerate(killing):
            self._due[requests * (number + 1) // (len(killing) + 1)] = self._killed(kill)
        await self._part(range(requests * 3 // 5))
        self._sample()
        await self._part(range(requests * 3 // 5, requests), max(requests * 2 // (5 * SAMPLES), 1))
        self._sample()
        await self._check_jobs()
        self.report.seconds = time.monotonic() - started
        return self.report

    async def picture(self) -> None:
        """JSON."""
        wish = self._wish(self._random.choice([1, 1, 2]))
        self._compare(wish, _pictures(await self._made(wish)))

    async def file(self) -> None:
        """The bytes themselves."""
        wish = self._wish()
        answer = await self._made(wish, headers={"accept": f"image/{wish.output_format}"})
        self._compare(wish, [answer.content])

    async def stream(self) -> None:
        """Events with previews."""
        wish = self._wish()
        answer = await self._made(wish, {"stream": True, "partial_images": 2})
        last = json.loads(answer.text.strip().split("\n\n")[-1].split("data: ", 1)[1])
        if "error" in last and last["error"]["code"] == "unavailable":
            raise Interrupted
        self._compare(wish, [base64.b64decode(last["b64_json"])])

    async def hang_up(self) -> None:
        """Leave before the answer."""
        fields = {"stream": True} if self._random.random() < 0.5 else {}
        asking = self._http.post(ROUTE, json=self._body(self._wish()) | fields)
        with suppress(TimeoutError):
            await asyncio.wait_for(asking, self._random.uniform(0, HASTE))

    async def cancel(self) -> None:
        """By id, while it is made."""
        wish, self._named = self._wish(), self._named + 1
        name = f"soak-{self._named}"
        asking = asyncio.create_task(self._made(wish, {}, (200, 499), headers={"x-request-id": name}))
        try:
            await asyncio.sleep(self._random.uniform(0, HASTE))
            await self._expect(await self._http.delete(f"{ROUTE}/{name}"), 200, 404)
        finally:
            (answer,) = await asyncio.gather(asking, return_exceptions=True)
        if isinstance(answer, BaseException):
            raise answer
        if answer.status_code == 200:
            self._compare(wish, _pictures(answer))

    async def job(self) -> None:
        """Long work, looked at when all is over."""
        wish = self._wish(self._random.choice([1, 3]))
        self._jobs.append((await self._accepted(wish), wish))

    async def deleted_job(self) -> None:
        """Long work that nobody wants any more."""
        job = await self._accepted(self._wish(3))
        await asyncio.sleep(self._random.uniform(0, HASTE))
        await self._expect(await self._http.delete(f"/v1/jobs/{job}"), 200)

    async def bad_input(self) -> None:
        """Refused, naming why."""
        headers = {"content-type": "application/json"}
        answer = await self._http.post(ROUTE, content=self._random.choice(BAD), headers=headers)
        await self._expect(answer, 400)

    async def page(self) -> None:
        """Whatever else is asked for."""
        path, status = self._random.choice(list(PAGES.items()))
        await self._expect(await self._http.get(path), status)

    async def _learn(self) -> None:
        """Every picture alone."""
        async with self._client() as self._http:
            for body in range(len(self._bodies)):
                for seed in range(SEEDS + 2):
                    for output_format in FORMATS:
                        wish = Wish(body, seed, output_format)
                        self._alone[wish] = _digest(*_pictures(await self._made(wish)))

    async def _part(self, numbers: range, sample: int = 0) -> None:
        """These requests from all clients; then nobody is connected, and the service is idle."""
        shared = iter(numbers)
        async with self._client() as self._http:
            await asyncio.gather(*(self._work(shared, sample) for _ in range(CLIENTS)))
        async with self._client() as http:
            ends = time.monotonic() + PATIENCE
            while not _idle((await http.get("/metrics")).text) and time.monotonic() < ends:
                await asyncio.sleep(0.05)

    async def _work(self, numbers: Iterator[int], sample: int) -> None:
        for number in numbers:
            self._begun = number
            if number in self._due:
                await self._due[number]()
            if sample and number % sample == 0:
                self._sample()
            await self._up.wait()
            (kind,), life = self._random.choices(list(self._kinds), list(self._kinds.values())), self._life
            try:
                await kind()
            except (httpx.TransportError, Interrupted) as error:
                if life == self._life:
                    self.report.failed.append(f"{kind.__name__}: {error!r}")
                self.report.done["interrupted"] += 1
            else:
                self.report.done[kind.__name__] += 1

    async def _restart(self) -> None:
        """By SIGTERM and SIGKILL in turn."""
        async with self._switch:
            self._life += 1
            self._up.clear()
            await asyncio.to_thread(self._service.stop, (signal.SIGTERM, signal.SIGKILL)[self.report.restarts % 2])
            self.report.restarts += 1
            await asyncio.to_thread(self._service.start)
            self._up.set()

    def _killed(self, kill: Callable[[], None]) -> Callable[[], Awaitable[None]]:
        async def act() -> None:
            kill()
            self.report.kills += 1

        return act

    async def _accepted(self, wish: Wish) -> str:
        """The id of the job that a wish became; asked again, under one key, if the service went away meanwhile."""
        self._named += 1
        headers = {"prefer": "respond-async", "idempotency-key": f"soak-{self._named}"}
        while True:
            await self._up.wait()
            life = self._life
            try:
                answer = await self._made(wish, {}, (202,), headers=headers)
                return str(answer.json()["id"])
            except (httpx.TransportError, Interrupted):
                if life == self._life:
                    raise

    async def _check_jobs(self) -> None:
        """What was accepted must be there."""
        self.report.jobs = len(self._jobs)
        async with self._client() as self._http:
            for job_id, wish in self._jobs:
                answer = await self._http.get(f"/v1/jobs/{job_id}")
                job: dict[str, Any] = (
                    answer.json() if answer.status_code == 200 else {"status": answer.text, "pictures": []}
                )
                if job["status"] != "succeeded":
                    self.report.lost.append(f"{job_id}: {job['status']} {job.get('error')}")
                    continue
                files = [(await self._http.get(picture["url"])).content for picture in job["pictures"]]
                self._compare(wish, files)

    async def _made(
        self, wish: Wish, fields: Mapping[str, Any] | None = None, expected: Sequence[int] = (200,), **options: Any
    ) -> httpx.Response:
        body = self._body(wish) | dict(fields or {})
        return await self._expect(await self._http.post(ROUTE, json=body, **options), *expected)

    async def _expect(self, answer: httpx.Response, *statuses: int) -> httpx.Response:
        if answer.status_code == 503:
            raise Interrupted(answer.text[:300])
        if answer.status_code not in statuses:
            self.report.failed.append(f"{answer.request.method} {answer.request.url.path}: {answer.text[:300]}")
            raise Interrupted(f"status {answer.status_code}")
        return answer

    def _wish(self, number: int = 1) -> Wish:
        body, seed = self._random.randrange(len(self._bodies)), self._random.randrange(SEEDS)
        return Wish(body, seed, self._random.choice(FORMATS), number)

    def _body(self, wish: Wish) -> dict[str, Any]:
        number = {"n": wish.number} if wish.number > 1 else {}
        return {**self._bodies[wish.body], "seed": wish.seed, "output_format": wish.output_format, **number}

    def _compare(self, wish: Wish, files: Sequence[bytes]) -> None:
        self.report.pictures += len(files)
        if [_digest(data) for data in files] != [self._alone[one] for one in wish.each()]:
            self.report.wrong.append(str(wish))

    def _sample(self) -> None:
        self.report.held.append((self._begun, self._service.holds()))

    def _client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self._service.url, timeout=PATIENCE)


def _pictures(answer: httpx.Response) -> list[bytes]:
    return [base64.b64decode(picture["b64_json"]) for picture in answer.json()["data"]]


def _digest(data: bytes) -> str:
    return sha256(data).hexdigest()


def _idle(metrics: str) -> bool:
    return all(f"{name} 0.0" in metrics for name in IDLE)
