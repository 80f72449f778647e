"""The gateway alone: requests per second without networks, 64 sampler threads, its share of a real request."""

import asyncio
import json
import time

from benchmarks.serving import report
from benchmarks.serving.client import Client
from benchmarks.serving.load import Kind, closed_loop, mix
from benchmarks.serving.processes import metric, server
from benchmarks.serving.report import Goal

DEFAULT = Kind("default", {"size": "64x64"})  # a picture of 64 x 64 takes 0.1 ms to encode
ONE_STEP = Kind("one step", {"size": "64x64", "num_inference_steps": 1})
THREADS = 64
GPU_STEP = 50.0  # milliseconds: SDXL at 1024 x 1024 on an H100
PROBE_EVERY = 0.02
NULL = "benchmarks.serving.null"


async def null(seconds: float) -> list[Goal]:
    """Without networks: requests per second, then many threads."""
    rows = []
    with server(NULL, port=0, max_concurrency=8) as one:
        async with Client(one.address) as client:
            for kind in (DEFAULT, ONE_STEP):
                await closed_loop(client, mix([kind], seed=0, previews=False), 16, seconds / 4)
                run = await closed_loop(client, mix([kind], seed=1, previews=False), 16, seconds)
                rows.append([kind.name, *report.latencies(run)])
    report.table(("null engine, 16 callers", *report.LATENCIES), rows)
    requests = Goal(f"null engine, {ONE_STEP.name}: requests/s", run.rate, 300, least=True)
    return [requests, *await threads(seconds)]


async def threads(seconds: float) -> list[Goal]:
    """64 pictures at once: does the event loop answer, how long does a step wait for the interpreter?"""
    rows, goals = [], []
    for step in (GPU_STEP, 0.0):
        settings = {"port": 0, "max_concurrency": THREADS, "max_wait_seconds": 600}
        with server(NULL, "--step-ms", str(step), **settings) as one:
            async with Client(one.address) as client:
                requests = mix([DEFAULT], seed=0, previews=False)
                task = asyncio.create_task(closed_loop(client, requests, THREADS, seconds, spread=min(1.0, seconds)))
                alive = await probed(client, task)
                run = await task
            count, p50, p99 = json.loads(one.stop())
        live = 1e3 * report.percentiles(alive, 99)[0]
        rows.append([f"{step:g} ms", count / run.seconds, 1e3 * p50, 1e3 * p99, live, run.rate])
        if step:
            goals.append(
                Goal(f"{THREADS} sampler threads: added latency of a step, p99, ms", 1e3 * p99, 2, least=False)
            )
            goals.append(Goal(f"{THREADS} sampler threads: /health/live p99, ms", live, 50, least=False))
    head = (
        "a network call takes",
        "steps/s",
        "added to a step p50, ms",
        "p99, ms",
        "/health/live p99, ms",
        "pictures/s",
    )
    report.table(head, rows)
    return goals


async def probed(client: Client, task: "asyncio.Task[object]") -> list[float]:
    """Seconds of every look at /health/live until the task is done."""
    found = []
    while not task.done():
        start = time.perf_counter()
        await client.get("/health/live")
        found.append(time.perf_counter() - start)
        await asyncio.sleep(PROBE_EVERY)
    return found


async def overhead(client: Client, pictures: int) -> Goal:
    """What of a lone default request, from the first byte sent to the last received, is no network call."""
    requests = mix([Kind("default", {})], seed=7, previews=False)
    for _ in range(2):
        await closed_loop(client, requests, 1, 0.0)
    before, taken = await client.get("/metrics"), 0.0
    for _ in range(pictures):
        taken += (await closed_loop(client, requests, 1, 0.0)).samples[0].latency
    after = await client.get("/metrics")
    names = "darkroom_call_duration_seconds_sum", "darkroom_gateway_overhead_seconds_sum"
    engine, own = (metric(after, name) - metric(before, name) for name in names)
    each = 1e3 / pictures
    head = ("a lone default request, ms", "of it network calls", "the rest", "the service's own figure for it")
    report.table(head, [[taken * each, engine * each, (taken - engine) * each, own * each]])
    return Goal("gateway overhead, % of a default request", 100 * (1 - engine / taken), 2, least=False)
