"""The gate: fair, capped, merging, and never a byte different from the engine behind it."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest

from service.engines.contract import Array, Conditioning, Ticket
from service.engines.dispatch import Called, Gate, _Call, _Queue
from service.engines.gaussian import NAME, GaussianEngine
from service.errors import Cancelled, DeadlineExceeded


class Watched(GaussianEngine):
    """Writes its calls down; calls with timestep -1 or -3 wait until they are let go, one with -2 fails."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[list[float]] = []
        self.running = self.most_running = 0
        self.go, self.go_on = threading.Event(), threading.Event()
        self.lock = threading.Lock()

    def predict(
        self, model: str, network: str, x: Array, timestep: Array, conditioning: Sequence[Conditioning], ticket: Ticket
    ) -> Array:
        with self.lock:
            self.calls.append(timestep.tolist())
            self.running += 1
            self.most_running = max(self.most_running, self.running)
        try:
            for flag, mark in ((self.go, -1), (self.go_on, -3)):
                assert mark not in timestep or flag.wait(10)
            if -2 in timestep:
                raise ValueError("a bad row")
            return super().predict(model, network, x, timestep, conditioning, ticket)
        finally:
            with self.lock:
                self.running -= 1


class Ledger:
    """An observer that keeps everything."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, int, int]] = []
        self.drops: list[str] = []
        self.lookups: list[bool] = []

    def called(self, call: Called) -> None:
        assert call.model.name == NAME
        assert call.waited >= 0 <= call.took
        self.rows.append((call.network, call.rows, call.requests))

    def dropped(self, reason: str) -> None:
        self.drops.append(reason)

    def text_cache(self, hit: bool) -> None:
        self.lookups.append(hit)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(64) as executor:
        yield executor


ENGINE = GaussianEngine()
ROW = ENGINE.encode_text(NAME, ENGINE.tokenize(NAME, "a lighthouse"), Ticket())


def latent(seed: float, rows: int = 2, side: int = 8) -> Array:
    return np.random.default_rng(int(10 * seed)).standard_normal((rows, 4, side, side))


def predict(gate: Gate, timestep: float, *, ticket: Ticket | None = None, rows: int = 2, side: int = 8) -> Array:
    x = latent(timestep + 5, rows, side)
    return gate.predict(NAME, "unet", x, np.full(rows, timestep), [ROW] * rows, ticket or Ticket())


def until(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.001)


def queued(gate: Gate, pool: ThreadPoolExecutor, *calls: dict[str, object]) -> list[Future[Array]]:
    """Calls that wait in the gate in this order."""
    futures = []
    for number, call in enumerate(calls, len(gate._queue._calls) + 1):
        futures.append(pool.submit(predict, gate, **call))  # type: ignore[arg-type]
        until(lambda number=number: len(gate._queue._calls) == number)  # type: ignore[misc]
    return futures


def blocked(engine: Watched, gate: Gate, pool: ThreadPoolExecutor) -> Future[Array]:
    """One call that holds a place of the gate until ``engine.go`` is set."""
    future = pool.submit(predict, gate, -1)
    until(lambda: engine.running == 1)
    return future


def test_equal_shapes_that_wait_are_merged_and_everyone_gets_their_own_bytes(pool: ThreadPoolExecutor) -> None:
    engine, ledger = Watched(), Ledger()
    gate = Gate(engine, in_flight=1, max_rows=8, observers=[ledger])
    first = blocked(engine, gate, pool)
    steps = [10, 20, 30, 40, 50]
    wide = {"timestep": 60, "side": 16}
    futures = queued(gate, pool, {"timestep": 10}, wide, *({"timestep": t} for t in steps[1:]))
    engine.go.set()
    first.result()
    for future, t in zip([futures[0], *futures[2:]], steps, strict=True):
        alone = ENGINE.predict(NAME, "unet", latent(t + 5), np.full(2, float(t)), [ROW] * 2, Ticket())
        np.testing.assert_array_equal(future.result(), alone)
    assert futures[1].result().shape == (2, 4, 16, 16)
    assert engine.calls == [[-1.0] * 2, [10, 10, 20, 20, 30, 30, 40, 40], [60, 60], [50, 50]]
    assert ledger.rows == [("unet", 2, 1), ("unet", 8, 4), ("unet", 2, 1), ("unet", 2, 1)]


def test_without_merging_calls_go_one_by_one(pool: ThreadPoolExecutor) -> None:
    engine = Watched()
    gate = Gate(engine, in_flight=1)
    blocked(engine, gate, pool)
    futures = queued(gate, pool, {"timestep": 10}, {"timestep": 20})
    engine.go.set()
    assert all(future.result().shape == (2, 4, 8, 8) for future in futures)
    assert engine.calls == [[-1, -1], [10, 10], [20, 20]]


def test_tenants_share_by_the_work_they_bring(pool: ThreadPoolExecutor) -> None:
    """Tenant a floods; b brings calls four times as large, c small ones. Each gets its turn by latent elements."""
    engine = Watched()
    gate = Gate(engine, in_flight=1)
    blocked(engine, gate, pool)
    calls = [{"timestep": t, "ticket": Ticket(tenant="a")} for t in (1, 2, 3, 4, 5, 6)]
    calls += [{"timestep": t, "ticket": Ticket(tenant="b"), "side": 16} for t in (11, 12)]
    calls += [{"timestep": t, "ticket": Ticket(tenant="c")} for t in (21, 22)]
    futures = queued(gate, pool, *calls)
    engine.go.set()
    for future in futures:
        future.result()
    order = [call[0] for call in engine.calls[1:]]
    assert order == [1, 11, 21, 2, 22, 3, 4, 5, 12, 6]


def test_never_more_in_flight_than_places_and_all_places_come_back(pool: ThreadPoolExecutor) -> None:
    engine, ledger = Watched(), Ledger()
    gate = Gate(engine, in_flight=3, max_rows=8, observers=[ledger])
    engine.go.set()
    dead = Ticket()
    dead.cancelled.set()
    late = Ticket(deadline=0.0)
    kinds: list[dict[str, object]] = [
        {"timestep": 500},
        {"timestep": 7, "side": 16},
        {"timestep": -2, "rows": 1},
        {"timestep": 3, "ticket": dead},
        {"timestep": 3, "ticket": late},
        {"timestep": -1, "rows": 1},
    ]
    futures = [pool.submit(predict, gate, **kinds[i % 6]) for i in range(300)]  # type: ignore[arg-type]
    errors = [type(future.exception()) for future in futures]
    assert errors == [type(None), type(None), ValueError, Cancelled, DeadlineExceeded, type(None)] * 50
    assert engine.most_running <= 3
    assert sorted(ledger.drops) == ["cancelled"] * 50 + ["deadline"] * 50
    assert sum(requests for _, _, requests in ledger.rows) == 200
    engine.go.clear()
    blocking = [pool.submit(predict, gate, -1, side=side) for side in (4, 8, 16)]
    until(lambda: engine.running == 3)
    engine.go.set()
    assert all(future.result() is not None for future in blocking)


def test_who_waits_may_leave(pool: ThreadPoolExecutor) -> None:
    engine, ledger = Watched(), Ledger()
    gate = Gate(engine, in_flight=1, max_rows=8, observers=[ledger])
    first = blocked(engine, gate, pool)
    leaver, late = Ticket(), Ticket(deadline=time.monotonic() + 0.3)
    futures = queued(gate, pool, {"timestep": 1, "ticket": leaver}, {"timestep": 2, "ticket": late}, {"timestep": 3})
    leaver.cancelled.set()
    assert isinstance(futures[0].exception(5), Cancelled)
    assert isinstance(futures[1].exception(5), DeadlineExceeded)
    assert not first.done()
    engine.go.set()
    assert futures[2].result().shape == (2, 4, 8, 8)
    assert engine.calls == [[-1, -1], [3, 3]]
    assert ledger.drops == ["cancelled", "deadline"]


def test_a_call_that_rides_along_may_leave_and_the_others_finish(pool: ThreadPoolExecutor) -> None:
    engine = Watched()
    gate = Gate(engine, in_flight=1, max_rows=8)
    first = blocked(engine, gate, pool)
    leaver = Ticket()
    futures = queued(gate, pool, {"timestep": -3}, {"timestep": 2, "ticket": leaver})
    engine.go.set()
    first.result()
    until(lambda: engine.calls[-1] == [-3, -3, 2, 2])
    leaver.cancelled.set()
    assert isinstance(futures[1].exception(5), Cancelled)
    assert not futures[0].done()
    engine.go_on.set()
    assert futures[0].result().shape == (2, 4, 8, 8)


def test_nobody_answers_for_a_neighbour(pool: ThreadPoolExecutor) -> None:
    engine = Watched()
    gate = Gate(engine, in_flight=1, max_rows=8)
    blocked(engine, gate, pool)
    futures = queued(gate, pool, {"timestep": 10}, {"timestep": -2}, {"timestep": 30})
    engine.go.set()
    assert isinstance(futures[1].exception(5), ValueError)
    for future, t in ((futures[0], 10), (futures[2], 30)):
        alone = ENGINE.predict(NAME, "unet", latent(t + 5), np.full(2, float(t)), [ROW] * 2, Ticket())
        np.testing.assert_array_equal(future.result(), alone)


def test_text_is_encoded_once_per_prompt_and_the_oldest_is_forgotten() -> None:
    ledger = Ledger()
    gate = Gate(GaussianEngine(), in_flight=1, text_cache=2, observers=[ledger])
    for prompt in ("a", "b", "a", "c", "a", "b"):
        tokens = gate.tokenize(NAME, prompt)
        cached, fresh = gate.encode_text(NAME, tokens, Ticket()), ENGINE.encode_text(NAME, tokens, Ticket())
        assert cached.digest == fresh.digest
        np.testing.assert_array_equal(cached.arrays["spectrum"], fresh.arrays["spectrum"])
    assert ledger.lookups == [False, False, True, False, True, False]
    assert ledger.rows == [("text_encoder", 1, 1)] * 4


def test_a_cache_of_no_size_keeps_nothing() -> None:
    ledger = Ledger()
    gate = Gate(GaussianEngine(), in_flight=1, observers=[ledger])
    for _ in range(3):
        gate.encode_text(NAME, gate.tokenize(NAME, "a"), Ticket())
    assert ledger.lookups == [False] * 3


def test_what_passes_through_is_the_engines_own() -> None:
    gate = Gate(ENGINE, in_flight=1)
    assert (gate.name, gate.precision, gate.models) == (ENGINE.name, ENGINE.precision, ENGINE.models)
    np.testing.assert_array_equal(
        gate.decode(NAME, latent(1)[0], Ticket()), ENGINE.decode(NAME, latent(1)[0], Ticket())
    )
    gate.health()


def test_tenants_share_equally_and_a_tenants_sizes_share_its_part() -> None:
    """Backlogged flows, one call of each always waiting: the work served, in units of the largest call."""
    queue, served = _Queue(), Counter[tuple[str, int]]()
    flows = [("one", 8), ("one", 32), ("two", 8), ("three", 16)]

    def ask(tenant: str, side: int) -> None:
        ticket = Ticket(tenant=tenant)
        queue.add(_Call(NAME, "unet", ticket, lambda _: [], size=(side, side), work=side * side, kind=(tenant, side)))

    for flow in flows:
        ask(*flow)
    for _ in range(2000):
        (call,) = queue.take(0)
        served[call.ticket.tenant, call.size[0]] += call.work
        ask(call.ticket.tenant, call.size[0])
    largest, tenants = 32 * 32, Counter[str]()
    for (tenant, _), work in served.items():
        tenants[tenant] += work
    assert max(tenants.values()) - min(tenants.values()) <= 3 * largest
    assert abs(served["one", 8] - served["one", 32]) <= 2 * largest


@pytest.mark.parametrize("seed", range(5))
def test_deadlines_order_the_calls_of_a_tenant_and_size_and_take_nothing_from_others(seed: int) -> None:
    rng = np.random.default_rng(seed)
    flows = [("one", 8), ("one", 16), ("two", 8)]
    arrived = [(flows[i], rng.choice([None, 5.0, 6.0, 7.0])) for i in rng.integers(len(flows), size=40)]

    def served(*, deadlines: bool) -> list[tuple[tuple[str, int], float, int]]:
        queue = _Queue()
        for number, ((tenant, side), deadline) in enumerate(arrived):
            limits = {"deadline": deadline, "arrived": 0.5, "patience": 6.0} if deadlines else {}
            ticket = Ticket(tenant=tenant, **limits)
            queue.add(_Call(NAME, "unet", ticket, lambda _: [], (number,), size=(side, side), work=side * side))
        calls = [call for _ in arrived for call in queue.take(0)]
        return [
            ((call.ticket.tenant, call.size[0]), arrived[call.arguments[0]][1] or 6.5, call.arguments[0])
            for call in calls
        ]

    ordered, plain = served(deadlines=True), served(deadlines=False)
    assert [flow for flow, *_ in ordered] == [flow for flow, *_ in plain]
    for flow in flows:
        mine = [(due, number) for of, due, number in ordered if of == flow]
        assert mine == sorted(mine)


def test_without_deadlines_calls_go_as_they_come_whenever_their_requests_did() -> None:
    queue = _Queue()
    for number, arrived in enumerate([3.0, 1.0, 2.0]):
        ticket = Ticket(arrived=arrived, patience=60.0)
        queue.add(_Call(NAME, "unet", ticket, lambda _: [], (number,), size=(8, 8), work=64))
    assert [call.arguments[0] for _ in range(3) for call in queue.take(0)] == [0, 1, 2]
