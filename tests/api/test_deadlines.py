"""Deadlines and cancelling by request id: honest before the work, prompt during it, counted after it."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from service.engines.gaussian import GaussianEngine
from tests.api.harness import Held, Running, eventually, serving
from tests.api.test_streaming import ROUTE, events

BODY: dict[str, Any] = {"prompt": "x", "size": "64x64", "seed": 7, "num_inference_steps": 8}


class Slow(GaussianEngine):
    """A network of twenty milliseconds."""

    calls = 0

    def predict(self, *arguments: Any) -> Any:
        self.calls += 1
        time.sleep(0.02)
        return super().predict(*arguments)


def test_a_deadline_that_passes_is_504_at_once_and_stops_the_work() -> None:
    engine = Held()
    with serving(engine) as running:
        answer = running.post({**BODY, "deadline_ms": 100})
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")
        assert answer.json()["error"]["param"] == "deadline_ms"
        assert running.value("darkroom_deadlines_total", outcome="missed") == 1
        assert not running.parts.runner.idle  # answered although the network has not
        engine.go.set()
        eventually(lambda: running.parts.runner.idle)
        assert len(engine.calls) == 1


def test_a_deadline_that_passes_in_the_queue_costs_no_network_call() -> None:
    engine = Held()
    with serving(engine, max_concurrency=1) as running, ThreadPoolExecutor(1) as pool:
        first = pool.submit(running.post, BODY)
        eventually(lambda: engine.calls)
        running.parts.runner._admission._shares.clear()  # the work ahead promises to be no work at all
        assert running.post({**BODY, "deadline_ms": 100}).status_code == 504
        engine.go.set()
        assert first.result().status_code == 200
        assert len({id(ticket) for ticket in engine.calls}) == 1
        assert running.value("darkroom_cancellations_total", stage="queue") == 1


def test_a_deadline_that_cannot_be_met_is_refused_before_the_first_call() -> None:
    engine = Slow()
    with serving(engine) as running:
        assert running.post({**BODY, "deadline_ms": 60_000}).status_code == 200
        assert running.value("darkroom_deadlines_total", outcome="met") == 1
        before = engine.calls
        answer = running.post({**BODY, "num_inference_steps": 100, "deadline_ms": 1000})
        assert (answer.status_code, answer.json()["error"]["param"]) == (504, "deadline_ms")
        assert engine.calls == before
        assert running.value("darkroom_refusals_total", reason="deadline") == 1
        assert running.value("darkroom_deadlines_total", outcome="refused") == 1
        assert running.post({**BODY, "deadline_ms": 60_000}).status_code == 200


def test_a_deadline_in_a_stream_is_an_event() -> None:
    engine = Held()
    with serving(engine) as running:
        with running.client.stream("POST", ROUTE, json={**BODY, "stream": True, "deadline_ms": 100}) as answer:
            ((name, data),) = events(answer.iter_lines())
        assert (name, data["error"]["code"]) == ("error", "deadline_exceeded")
        engine.go.set()


@pytest.mark.parametrize("value", [0, -1, 86_400_001, True, "100", 0.5])
def test_wrong_deadlines_are_refused_by_name(running: Running, value: object) -> None:
    answer = running.post({**BODY, "deadline_ms": value})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "deadline_ms")


def test_delete_stops_what_is_in_progress_under_a_request_id_and_nothing_else() -> None:
    engine = Held()
    with serving(engine) as running, ThreadPoolExecutor(2) as pool:
        mine, other = (pool.submit(running.post, BODY, headers={"x-request-id": name}) for name in ("a/b:1", "other"))
        eventually(lambda: len(engine.calls) == 2)
        answer = running.client.delete(f"{ROUTE}/a/b:1")
        assert answer.json() == {"id": "a/b:1", "object": "image_generation", "cancelled": True}
        engine.go.set()
        assert (mine.result().status_code, mine.result().json()["error"]["code"]) == (499, "cancelled")
        assert other.result().status_code == 200
        assert running.value("darkroom_cancellations_total", stage="denoise") == 1
        again = running.client.delete(f"{ROUTE}/a/b:1")
        assert (again.status_code, again.json()["error"]["code"]) == (404, "not_found")
