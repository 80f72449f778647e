"""Honest overload: who leaves frees the engine, too much is 429 with a time, draining is 503 and loses nothing."""

import base64
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from PIL import Image

from service.admission import GUESS
from tests.api.harness import Held, Running, eventually, serving

BODY: dict[str, Any] = {"prompt": "x", "size": "64x64", "seed": 1, "num_inference_steps": 10}


def hang_up_after_asking(running: Running, body: dict[str, Any]) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", int(running.url.rsplit(":", 1)[1])), timeout=10)
    data = json.dumps(body).encode()
    head = f"POST /v1/images/generations HTTP/1.1\r\nhost: x\r\ncontent-length: {len(data)}\r\n"
    connection.sendall(head.encode() + b"content-type: application/json\r\n\r\n" + data)
    return connection


def test_a_client_that_leaves_frees_the_engine_at_the_next_network_call() -> None:
    engine = Held()
    with serving(engine) as running:
        connection = hang_up_after_asking(running, BODY)
        eventually(lambda: len(engine.calls) == 1)
        connection.close()
        eventually(engine.calls[0].cancelled.is_set)
        engine.go.set()
        eventually(lambda: running.parts.runner.idle)
        assert len(engine.calls) == 1
        assert running.value("darkroom_cancellations_total", stage="denoise") == 1
        labels = {"api": "openai", "preset": "balanced", "outcome": "cancelled"}
        eventually(lambda: running.value("darkroom_requests_total", **labels) == 1)
        assert running.post(BODY).status_code == 200


def test_pictures_that_wait_are_dropped_with_their_client() -> None:
    engine = Held()
    with serving(engine, max_concurrency=1) as running:
        connection = hang_up_after_asking(running, {**BODY, "n": 3})
        eventually(lambda: len(engine.calls) == 1)
        eventually(lambda: running.value("darkroom_pictures_waiting") == 2)  # the first may start before they queue
        assert running.value("darkroom_pictures_in_progress") == 1
        connection.close()
        eventually(lambda: running.value("darkroom_cancellations_total", stage="queue") == 2)
        engine.go.set()
        eventually(lambda: running.parts.runner.idle)
        assert len(engine.calls) == 1


def test_more_than_fits_is_refused_with_the_time_to_come_back() -> None:
    engine = Held()
    with serving(engine, max_concurrency=1, max_wait_seconds=8) as running, ThreadPoolExecutor(2) as pool:
        accepted = pool.map(lambda _: running.post(BODY).status_code, range(2))  # ten seconds, as far as is known
        eventually(lambda: running.value("darkroom_queued_compute_seconds") == 2 * GUESS)
        answer = running.post(BODY)
        assert answer.status_code == 429
        assert answer.json()["error"]["code"] == answer.json()["error"]["type"] == "rate_limit_exceeded"
        assert answer.headers["retry-after"] == "2"
        assert running.value("darkroom_refusals_total", reason="queue_full") == 1
        assert running.client.get("/health/live").status_code == 200
        engine.go.set()
        assert list(accepted) == [200, 200]
        assert running.post(BODY).status_code == 200
        assert running.value("darkroom_queued_compute_seconds") == 0


def test_draining_refuses_new_work_and_finishes_what_is_in_progress() -> None:
    engine = Held()
    with serving(engine) as running, ThreadPoolExecutor(1) as pool:
        accepted = pool.submit(running.post, BODY)
        eventually(lambda: len(engine.calls) == 1)
        running.server.handle_exit(signal.SIGTERM, None)
        for answer in (running.post(BODY), running.client.get("/health/ready")):
            assert answer.status_code == 503
            assert answer.json()["error"]["code"] == "unavailable"
            assert int(answer.headers["retry-after"]) >= 1
        assert running.client.get("/health/live").status_code == 200
        assert running.value("darkroom_refusals_total", reason="draining") == 1
        engine.go.set()
        assert accepted.result().status_code == 200
        eventually(lambda: running.server.should_exit)


def test_a_drain_that_takes_too_long_ends() -> None:
    engine = Held()
    with serving(engine, drain_seconds=0.2) as running:
        connection = hang_up_after_asking(running, BODY)
        eventually(lambda: len(engine.calls) == 1)
        running.server.handle_exit(signal.SIGTERM, None)
        eventually(lambda: running.server.should_exit)
        engine.go.set()
        connection.close()


SERVE = [sys.executable, "-m", "service", "serve", "--engine", "gaussian", "--port", "0"]


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_the_process_drains_on_a_signal_and_exits_cleanly(sent: signal.Signals) -> None:
    process = subprocess.Popen(SERVE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout
    url = process.stdout.readline().split()[-1]
    assert "curl" in process.stdout.readline()
    answers: list[httpx.Response] = []
    body = {**BODY, "size": "512x512", "num_inference_steps": 60, "sampler": "heun", "schedule": "karras"}
    asking = threading.Thread(target=lambda: answers.append(httpx.post(f"{url}/v1/images/generations", json=body)))
    asking.start()
    eventually(lambda: "darkroom_pictures_in_progress 1.0" in httpx.get(f"{url}/metrics").text)
    os.kill(process.pid, sent)
    asking.join(30)
    assert process.wait(30) == 0
    process.stdout.close()
    data = base64.b64decode(answers[0].json()["data"][0]["b64_json"])
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == (512, 512)
