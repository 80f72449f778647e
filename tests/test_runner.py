"""Admission, order, cancellation, drain and readiness, below HTTP."""

import asyncio
import threading
from collections.abc import Coroutine
from dataclasses import replace
from itertools import groupby
from time import monotonic
from typing import Any

import numpy as np
import pytest

from service.diffusion.samplers import SAMPLERS
from service.diffusion.types import Denoised
from service.engines.contract import Ticket
from service.engines.gaussian import GaussianEngine
from service.errors import Cancelled, DeadlineExceeded, EngineFailure, Unavailable
from service.images import encode
from service.making import Made
from service.metrics import Metrics
from service.pipeline import generate
from service.progress import Progress
from service.runner import FRESH
from tests.api.harness import Held
from tests.orders import order, recipe, running


async def until(condition: Any) -> None:
    for _ in range(4000):
        if condition():
            return
        await asyncio.sleep(0.005)
    pytest.fail("it never came to hold")


def test_what_is_made_is_what_the_pipeline_makes() -> None:
    wanted = order(3)
    with running() as runner:
        made = asyncio.run(runner.make(wanted))
        assert runner.idle
    for one, expected in zip(made, wanted.recipes, strict=True):
        pixels = generate(GaussianEngine(), expected, Ticket()).pixels
        assert one == Made(encode(pixels, expected.model_dump(mode="json"), "png"), expected, one.timings)


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_progress_counts_every_step_of_every_sampler_once_and_never_back(sampler: str) -> None:
    seen: list[int] = []
    wanted = recipe(steps=6, sampler=sampler)
    progress = Progress(wanted, Ticket(), lambda progress, *_: seen.append(progress.step))
    generate(GaussianEngine(), wanted, Ticket(), progress)
    assert sorted(set(seen)) == list(range(1, 7))
    assert seen == sorted(seen)
    assert progress.evaluations == len(seen)


@pytest.mark.parametrize(("late", "error"), [(False, Cancelled), (True, DeadlineExceeded)])
def test_progress_interrupts_before_the_network_is_called(late: bool, error: type[Exception]) -> None:
    ticket = Ticket(deadline=0.0 if late else None)
    if not late:
        ticket.cancelled.set()
    calls = 0

    def denoise(x: Any, sigma: float) -> Denoised:  # noqa: ARG001
        nonlocal calls
        calls += 1
        return Denoised(x, x)

    with pytest.raises(error):
        Progress(recipe(), ticket, lambda *_: None)(denoise)(np.zeros(1), 1.0)
    assert calls == 0


def test_at_most_so_many_run_and_the_others_wait() -> None:
    engine, metrics = Held(), Metrics()

    async def scene() -> None:
        task = asyncio.create_task(runner.make(order(3)))
        await until(lambda: len(engine.calls) == 2)
        gauge = metrics.registry.get_sample_value
        assert (gauge("darkroom_pictures_in_progress"), gauge("darkroom_pictures_waiting")) == (2, 1)
        engine.go.set()
        assert len(await task) == 3

    with running(engine, concurrency=2, metrics=metrics) as runner:
        asyncio.run(scene())
        assert runner.idle


@pytest.mark.parametrize("seconds", [[None] * 5, [400, None, 200, 300, 200], [200, 400, None, None, 350]])
def test_what_is_due_first_goes_first_and_everyone_knows_their_place(seconds: list[float | None]) -> None:
    """Without a deadline it is due 300 seconds after it came; of those due at once, the first to come."""
    engine, now, hours = Held(), monotonic(), 3600.0
    tickets = [
        Ticket(str(number), deadline=due and now + due + hours, arrived=now + hours, patience=300)
        for number, due in enumerate(seconds)
    ]
    expected = sorted(range(5), key=lambda number: seconds[number] or 300.0)

    async def scene() -> None:
        held = asyncio.create_task(runner.make(order(request_id="held")))
        await until(lambda: engine.calls)
        admitted = [runner.start(replace(order(), ticket=ticket)) for ticket in tickets]
        assert [one.place().ahead for one in admitted] == [expected.index(number) for number in range(5)]
        leaver = expected.pop(2)
        admitted[leaver].pictures.cancel()
        await until(lambda: metrics.registry.get_sample_value("darkroom_pictures_waiting") == 4)
        assert not engine.go.is_set()
        assert [admitted[number].place().ahead for number in expected] == [0, 1, 2, 3]
        engine.go.set()
        await asyncio.gather(held, *(runner.finish(admitted[number]) for number in expected))
        await until(lambda: runner.idle)

    metrics = Metrics()
    with running(engine, concurrency=1, metrics=metrics) as runner:
        asyncio.run(scene())
    assert [name for name, _ in groupby(ticket.request_id for ticket in engine.calls)] == ["held", *map(str, expected)]


def test_cancelling_the_caller_stops_the_work_at_the_next_call_and_frees_the_queue() -> None:
    engine, metrics = Held(), Metrics()

    async def scene() -> None:
        task = asyncio.create_task(runner.make(order(4)))
        await until(lambda: len(engine.calls) == 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        engine.go.set()
        await until(lambda: runner.idle)

    with running(engine, concurrency=2, metrics=metrics) as runner:
        asyncio.run(scene())
    assert len(engine.calls) == 2
    stages = {"queue": 2, "denoise": 2}
    for stage, count in stages.items():
        assert metrics.registry.get_sample_value("darkroom_cancellations_total", {"stage": stage}) == count


def test_cancelling_by_request_id_touches_nobody_else() -> None:
    engine = Held()

    async def scene() -> None:
        mine, other = (asyncio.create_task(runner.make(order(request_id=name))) for name in ("mine", "other"))
        await until(lambda: len(engine.calls) == 2)
        assert runner.cancel("nobody") == 0
        assert runner.cancel("mine") == 1
        engine.go.set()
        with pytest.raises(Cancelled):
            await mine
        assert len(await other) == 1
        assert runner.cancel("other") == 0

    with running(engine) as runner:
        asyncio.run(scene())


def test_one_picture_that_fails_stops_its_siblings_and_the_next_order_works() -> None:
    class Once(GaussianEngine):
        failed = threading.Event()

        def decode(self, *arguments: Any) -> Any:
            if not self.failed.is_set():
                self.failed.set()
                raise EngineFailure("once")
            return super().decode(*arguments)

    async def scene() -> None:
        with pytest.raises(EngineFailure):
            await runner.make(order(4))
        await until(lambda: runner.idle)
        assert len(await runner.make(order(2))) == 2

    with running(Once()) as runner:
        asyncio.run(scene())


def test_draining_admits_nothing_and_closing_stops_what_is_left() -> None:
    engine = Held()

    async def scene() -> None:
        task = asyncio.create_task(runner.make(order()))
        await until(lambda: len(engine.calls) == 1)
        runner.drain()
        for refused in (runner.make(order()), runner.ready()):
            with pytest.raises(Unavailable):
                await refused
        closing = asyncio.create_task(asyncio.to_thread(runner.close))
        await until(engine.calls[0].cancelled.is_set)
        engine.go.set()
        await closing
        with pytest.raises(Unavailable):
            await task

    with running(engine) as runner:
        asyncio.run(scene())
    assert len(engine.calls) == 1


def ready(runner: Any) -> Coroutine[Any, Any, None]:
    return runner.ready()  # type: ignore[no-any-return]


def test_ready_asks_an_idle_engine_trusts_traffic_and_doubts_a_busy_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, now = Held(), 1000.0
    probes: list[float] = []
    monkeypatch.setattr("service.runner.monotonic", lambda: now)
    engine.health = lambda: probes.append(now)  # type: ignore[method-assign]

    async def scene() -> None:
        nonlocal now
        await ready(runner)
        now += FRESH - 1
        await ready(runner)
        assert probes == [1000.0]
        now += 2
        await ready(runner)
        assert len(probes) == 2
        now += FRESH + 1
        task = asyncio.create_task(runner.make(order()))
        await until(lambda: len(engine.calls) == 1)
        await ready(runner)  # busy, and not for long
        now += FRESH + 1
        with pytest.raises(Unavailable):
            await ready(runner)  # busy for long, and nothing came of it
        engine.go.set()
        await task
        await ready(runner)  # proven by that work
        assert len(probes) == 2

    with running(engine) as runner:
        asyncio.run(scene())
