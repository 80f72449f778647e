"""Health does not lie: ready means that a real network call succeeded recently."""

import threading
from concurrent.futures import ThreadPoolExecutor

from prometheus_client.parser import text_string_to_metric_families

from service.engines.gaussian import GaussianEngine
from service.errors import EngineFailure
from tests.api.harness import Running, eventually, serving

BODY = {"prompt": "x", "size": "64x64", "seed": 1}


class Failing(GaussianEngine):
    """An engine that can be broken and repaired."""

    def __init__(self) -> None:
        super().__init__()
        self.broken = False
        self.probes = 0
        self.wait_for = threading.Event()
        self.wait_for.set()

    def health(self) -> None:
        self.probes += 1
        assert self.wait_for.wait(20)
        if self.broken:
            raise EngineFailure("the device is gone")

    def predict(self, *args: object) -> object:  # type: ignore[override]
        if self.broken:
            raise EngineFailure("the device is gone")
        return super().predict(*args)  # type: ignore[arg-type]


def test_live_ready_and_who_else_answers(running: Running) -> None:
    assert running.client.get("/health/live").json() == {"status": "live"}
    assert running.client.get("/health/ready").json() == {"status": "ready"}


def test_a_success_counts_for_a_while_and_a_failure_at_once() -> None:
    engine = Failing()
    with serving(engine) as running:
        assert engine.probes == 1  # the warm-up
        assert running.client.get("/health/ready").status_code == 200
        assert engine.probes == 1  # fresh enough
        engine.broken = True
        failed = running.post(BODY)
        assert (failed.status_code, failed.json()["error"]["type"]) == (500, "server_error")
        not_ready = running.client.get("/health/ready")
        assert (not_ready.status_code, engine.probes) == (503, 2)
        assert "gone" in not_ready.json()["error"]["message"]
        engine.broken = False
        assert running.client.get("/health/ready").status_code == 200
        assert engine.probes == 3


def test_an_engine_that_is_away_at_the_start_is_waited_for() -> None:
    engine = Failing()
    engine.broken = True
    with serving(engine) as running:
        assert running.client.get("/health/ready").status_code == 503
        assert running.client.get("/health/live").status_code == 200
        engine.broken = False
        assert running.client.get("/health/ready").status_code == 200


def test_traffic_proves_the_engine_without_a_probe() -> None:
    engine = Failing()
    with serving(engine) as running:
        engine.broken = True
        running.post(BODY)
        engine.broken = False
        assert running.post(BODY).status_code == 200
        assert running.client.get("/health/ready").status_code == 200
        assert engine.probes == 1


def test_thirty_who_ask_are_answered_by_one_probe() -> None:
    engine, answer = Failing(), threading.Event()
    with serving(engine) as running, ThreadPoolExecutor(30) as pool:
        engine.broken = True
        assert running.post(BODY).status_code == 500
        engine.wait_for = answer
        asking = [pool.submit(running.client.get, "/health/ready") for _ in range(30)]
        eventually(lambda: len(running.server.server_state.tasks) == 30)
        assert running.client.get("/health/live").status_code == 200
        answer.set()
        assert [one.result().status_code for one in asking] == [503] * 30
        assert engine.probes == 2


def test_metrics_are_prometheus_text_and_hold_no_prompt(running: Running) -> None:
    secret = "an unmistakable secret"
    running.post({**BODY, "prompt": secret, "user": secret})
    running.post({**BODY, "prompt": secret, "sampler": secret})
    text = running.client.get("/metrics").text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    ours = {name for name in families if name.startswith("darkroom_")}
    assert {"darkroom_requests", "darkroom_request_duration_seconds", "darkroom_part_duration_seconds"} <= ours
    assert secret not in text
    (model,) = families["darkroom_model_info"].samples
    assert model.labels["digest"] == running.client.get("/v1/models/gaussian").json()["digest"]
