"""Load of two kinds: arrivals that wait for nobody (open loop, Poisson), callers who await their answer (closed).

A mix of kinds of request (preset, size), prompts and seeds all different, the same for the same seed of the mix.
"""

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.serving.client import Client, post

PATH = "/v1/images/generations"
STREAMED = 4  # one request of so many asks for previews: a stream cannot be had together with a plain answer


@dataclass(frozen=True)
class Kind:
    """Requests that differ in prompt and seed only."""

    name: str
    body: Mapping[str, Any]


@dataclass(frozen=True)
class Request:
    """One request: it came ``due`` seconds after the start, or as soon as its caller was free."""

    kind: Kind
    number: int
    previews: bool = False
    deadline: float | None = None  # seconds

    def encoded(self) -> bytes:
        """The bytes to send."""
        body = {**self.kind.body, "prompt": f"picture number {self.number} of a red sphere", "seed": self.number}
        if self.previews:
            body |= {"stream": True, "partial_images": 3}
        if self.deadline is not None:
            body["deadline_ms"] = max(1, round(self.deadline * 1000))
        return post(PATH, body)


@dataclass(frozen=True)
class Sample:
    """What became of a request; seconds since the start of the run."""

    kind: str
    status: int  # 0: the connection broke, or the caller left at the deadline
    due: float
    sent: float
    end: float
    first: float | None = None  # the first preview
    deadline: float | None = None

    @property
    def latency(self) -> float:
        """Since the request was due: a generator that lags behind does not flatter the server."""
        return self.end - self.due

    def within(self, deadline: float) -> bool:
        """Answered with a picture before the deadline, in seconds."""
        return self.status == 200 and self.latency <= deadline


@dataclass(frozen=True)
class Run:
    """The samples of one run, how long it took, the CPU seconds of the load generator in it."""

    samples: Sequence[Sample]
    seconds: float
    cpu: float

    @property
    def rate(self) -> float:
        """Pictures per second."""
        return sum(sample.status == 200 for sample in self.samples) / self.seconds

    @property
    def goodput(self) -> float:
        """Pictures inside their deadline per second."""
        return sum(s.deadline is not None and s.within(s.deadline) for s in self.samples) / self.seconds


def mix(
    kinds: Sequence[Kind], *, seed: int, previews: bool, deadlines: Mapping[str, float] | None = None
) -> Iterator[Request]:
    """Requests without end, of each kind as often as of any other."""
    rng = np.random.default_rng(seed)
    number = int(rng.integers(1 << 40))
    while True:
        for index in rng.permutation(len(kinds)):
            kind, number = kinds[index], number + 1
            streamed = previews and number % STREAMED == 0
            yield Request(kind, number, streamed, deadlines[kind.name] if deadlines else None)


def arrivals(rate: float, seconds: float, seed: int) -> list[float]:
    """A Poisson process: times in [0, seconds), fixed before the first request is sent."""
    rng = np.random.default_rng(seed)
    count = rng.poisson(rate * seconds)
    return sorted(rng.uniform(0, seconds, count).tolist())


async def open_loop(client: Client, requests: Iterator[Request], times: Sequence[float], seconds: float) -> Run:
    """Send a request at each of these times, whatever became of those before; callers leave at their deadline.

    The run lasts ``seconds``, or until the last one is answered.
    """
    start, cpu = time.perf_counter(), time.process_time()
    tasks = []
    for due, request in zip(times, requests, strict=False):
        data = request.encoded()
        await asyncio.sleep(max(0.0, start + due - time.perf_counter()))
        tasks.append(asyncio.create_task(_sample(client, request, data, start, due)))
    samples = await asyncio.gather(*tasks)
    return Run(samples, max(seconds, time.perf_counter() - start), time.process_time() - cpu)


async def closed_loop(
    client: Client, requests: Iterator[Request], callers: int, seconds: float, spread: float = 0.0
) -> Run:
    """Callers who ask again as soon as they are answered, for so long; the pictures begun are waited for.

    They begin one after the other, evenly over ``spread`` seconds: who begins together stays in step.
    """
    start, cpu = time.perf_counter(), time.process_time()
    samples: list[Sample] = []

    async def caller(number: int) -> None:
        await asyncio.sleep(number * spread / callers)
        while True:
            request, now = next(requests), time.perf_counter() - start
            samples.append(await _sample(client, request, request.encoded(), start, now))
            if time.perf_counter() - start >= seconds:
                return

    await asyncio.gather(*map(caller, range(callers)))
    return Run(samples, time.perf_counter() - start, time.process_time() - cpu)


async def _sample(client: Client, request: Request, data: bytes, start: float, due: float) -> Sample:
    sent = time.perf_counter()
    reply = await client.ask(data, request.deadline)
    first = None if reply.first is None else reply.first - start
    failed = request.previews and b"event: error" in reply.body[-2000:]
    status = 503 if failed else reply.status
    return Sample(request.kind.name, status, due, sent - start, reply.end - start, first, request.deadline)
