"""Larger pictures over HTTP: by a recipe's field, from a picture of one's own, sent while they are made."""

import base64
import io
import json
import os
import socket
import threading
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from service.engines.gaussian import GaussianEngine
from service.errors import EngineFailure
from service.images import recipe_of
from service.upscaling.lanczos import strip
from tests.api.harness import Running, eventually, serving
from tests.api.jobs import accepted, at, ended

ROUTE, PNG = "/v1/images/upscale", {"accept": "image/png"}
BODY: dict[str, Any] = {"prompt": "x", "size": "64x64", "num_inference_steps": 2, "seed": 7}
LANCZOS = BODY | {"upscale": {"factor": 4, "method": "lanczos"}}
NETWORK = BODY | {"upscale": {"factor": 4}}


def pixels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


def digest(data: bytes) -> str:
    return sha256(data).hexdigest()


def enlarged(data: bytes, factor: int) -> np.ndarray:
    """By Pillow."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.resize((image.width * factor, image.height * factor), Image.Resampling.LANCZOS))


def own(running: Running, data: bytes, query: str, kind: str = "image/png", **headers: str) -> httpx.Response:
    return running.client.post(f"{ROUTE}?{query}", content=data, headers={"content-type": kind, **headers})


@pytest.fixture(scope="module")
def small(running: Running) -> bytes:
    return running.post(BODY, headers=PNG).content


@pytest.mark.parametrize("factor", [4, 16])
def test_lanczos_is_pillows_picture(running: Running, small: bytes, factor: int) -> None:
    answer = running.post(BODY | {"upscale": {"factor": factor, "method": "lanczos"}}, headers=PNG)
    assert answer.status_code == 200
    assert "content-length" not in answer.headers, "it is sent while it is made"
    np.testing.assert_array_equal(pixels(answer.content), enlarged(small, factor))


@pytest.mark.parametrize("body", [LANCZOS, NETWORK])
def test_streamed_and_whole_are_the_same_file_and_so_is_its_recipe(running: Running, body: dict[str, Any]) -> None:
    streamed = running.post(body, headers=PNG)
    whole = running.post(body).json()
    assert whole["size"] == "256x256"
    assert whole["data"][0]["timings"]["upscale"] > 0
    assert digest(base64.b64decode(whole["data"][0]["b64_json"])) == digest(streamed.content)
    recipe = recipe_of(streamed.content)
    assert recipe == whole["data"][0]["recipe"]
    assert digest(running.post(recipe, headers=PNG).content) == digest(streamed.content)
    assert streamed.headers["x-darkroom-seed"] == "7"


@pytest.mark.parametrize("kind", ["webp", "jpeg"])
def test_other_formats_are_written_whole(running: Running, kind: str) -> None:
    answer = running.post(LANCZOS, headers={"accept": f"image/{kind}"})
    assert pixels(answer.content).shape == (256, 256, 3)
    assert recipe_of(answer.content)["upscale"]["method"] == "lanczos"


def test_the_last_preview_is_the_picture_before_it_is_enlarged(running: Running, small: bytes) -> None:
    answer = running.post(LANCZOS | {"stream": True, "partial_images": 2})
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]
    sizes = [event["size"] for event in events]
    assert sizes == ["64x64", "64x64", "256x256"]
    found = [pixels(base64.b64decode(event["b64_json"])) for event in events]
    np.testing.assert_array_equal(found[1], pixels(small))
    assert [event["step"] for event in events[:2]] == [1, 2]
    assert events[0]["steps"] == 2 + 2  # two strips


def test_explain_counts_the_calls_that_are_made(running: Running) -> None:
    counted = running.post(NETWORK, path="/v1/explain").json()["upscale"]
    labels = {"model": "gaussian", "network": "upsampler"}
    before = running.value("darkroom_call_duration_seconds_count", **labels)
    seen = running.value("darkroom_part_duration_seconds_count", preset="balanced", part="upscale")
    running.post(NETWORK)
    assert running.value("darkroom_call_duration_seconds_count", **labels) - before == counted[0]["calls"]
    assert running.value("darkroom_part_duration_seconds_count", preset="balanced", part="upscale") == seen + 1
    assert running.post(LANCZOS, path="/v1/explain").json()["upscale"] == []


def test_a_picture_of_ones_own(running: Running) -> None:
    lowres = np.random.default_rng(0).integers(0, 256, (21, 50, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(lowres).save(file, "WEBP", lossless=True)
    answer = own(running, file.getvalue(), "factor=4&method=lanczos", "image/webp", **PNG)
    assert answer.status_code == 200, answer.text
    np.testing.assert_array_equal(pixels(answer.content), enlarged(file.getvalue(), 4))
    recipe = recipe_of(answer.content)
    assert (recipe["width"], recipe["height"], recipe["seed"]) == (50, 21, None)
    assert recipe["upscale"] == {"factor": 4, "method": "lanczos", "sampler": None, "sigmas": None}
    by_network = own(running, file.getvalue(), "factor=4&seed=5&sigmas=2,0.5,0&sampler=heun", "image/webp").json()
    assert (by_network["size"], by_network["output_format"]) == ("200x84", "png")
    how = by_network["data"][0]["recipe"]
    assert how["seed"] == 5
    assert how["upscale"] == {"factor": 4, "method": "network", "sampler": "heun", "sigmas": [2.0, 0.5, 0.0]}


def test_ones_own_is_enlarged_as_the_models(running: Running, small: bytes) -> None:
    for body, query in ((LANCZOS, "factor=4&method=lanczos"), (NETWORK, "factor=4&seed=7")):
        ours, theirs = running.post(body, headers=PNG).content, own(running, small, query, **PNG).content
        np.testing.assert_array_equal(pixels(ours), pixels(theirs))


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("", "factor"),
        ("factor=5", "factor"),
        ("factor=4&factor=16", "factor"),
        ("factor=x", "factor"),
        ("factor=[4", "factor"),
        ("factor=" + "9" * 2000, "factor"),
        ("factor=4&size=3", "size"),
        ("factor=4&model=nope", "model"),
        ("factor=4&seed=-1", "seed"),
        ("factor=4&method=lanczos&seed=1", "seed"),
        ("factor=4&method=lanczos&sampler=euler", "sampler"),
        ("factor=4&sigmas=1,2,0", "sigmas"),
        ("factor=4&sigmas=NaN,0", "sigmas"),
        ("factor=4&sigmas=1e999,0", "sigmas"),
        ("factor=4&sigmas=3,0", "sigmas"),
    ],
)
def test_a_wrong_query_is_refused_by_name(running: Running, small: bytes, query: str, field: str) -> None:
    answer = own(running, small, query)
    assert answer.status_code in (400, 404), answer.text
    assert answer.json()["error"]["param"].split(".")[0] == field


def test_hostile_bodies_are_refused(running: Running, small: bytes) -> None:
    html = own(running, b"<!doctype html><svg/>", "factor=4")
    assert (html.status_code, html.json()["error"]["param"]) == (400, "image")
    form = own(running, small, "factor=4", "multipart/form-data; boundary=x")
    assert (form.status_code, form.json()["error"]["code"]) == (415, "unsupported_media_type")
    assert own(running, small, "factor=4", accept="image/webp").status_code == 406
    with serving(max_image_bytes=len(small), max_pixels=64 * 64 * 16) as limited:
        assert own(limited, small, "factor=4&method=lanczos").status_code == 200
        assert own(limited, small + b"x", "factor=4").status_code == 413
        large = own(limited, small, "factor=16")
        assert (large.status_code, large.json()["error"]["param"]) == (400, "image")
        larger = limited.post(BODY | {"upscale": {"factor": 16}})
        assert (larger.status_code, larger.json()["error"]["param"]) == (400, "upscale.factor")
        several = limited.post(LANCZOS | {"n": 2})
        assert (several.status_code, several.json()["error"]["param"]) == (400, "n")


ENOUGH = 48  # calls for the first row of blocks, not for the last


class Patient(GaussianEngine):
    """An upsampler that makes only as many calls as a test allows."""

    def __init__(self) -> None:
        super().__init__()
        self.allowed, self.calls, self.fails = threading.Semaphore(0), 0, False

    def upsample(self, *arguments: Any) -> Any:
        assert self.allowed.acquire(timeout=30)
        self.calls += 1
        if self.fails:
            raise EngineFailure("it broke")
        return super().upsample(*arguments)

    def allow(self, calls: int) -> None:
        self.allowed.release(calls)


@pytest.fixture
def patient() -> Iterator[tuple[Patient, Running]]:
    engine = Patient()
    with serving(engine) as running:
        yield engine, running
        engine.allow(10_000)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir())) if os.path.isdir("/proc/self/fd") else 0


def test_a_client_that_leaves_frees_everything(patient: tuple[Patient, Running]) -> None:
    engine, running = patient
    before = open_files()
    engine.allow(ENOUGH)
    with running.client.stream("POST", "/v1/images/generations", json=NETWORK, headers=PNG) as answer:
        assert answer.status_code == 200
        assert next(answer.iter_raw()).startswith(b"\x89PNG")
    running.client.close()
    eventually(lambda: running.parts.runner._tickets == [])
    engine.allow(1)
    eventually(lambda: running.parts.runner.idle)
    assert engine.calls <= ENOUGH + 1
    eventually(lambda: running.value("darkroom_cancellations_total", stage="upscale") == 1)
    eventually(lambda: open_files() <= before)
    assert running.parts.runner._admission.load() == 0


def test_cancelled_by_its_name_the_file_stays_incomplete(patient: tuple[Patient, Running]) -> None:
    engine, running = patient
    headers = PNG | {"x-request-id": "large"}
    engine.allow(ENOUGH)
    with running.client.stream("POST", "/v1/images/generations", json=NETWORK, headers=headers) as answer:
        pieces = answer.iter_raw()
        next(pieces)
        assert httpx.delete(f"{running.url}/v1/images/generations/large").status_code == 200
        engine.allow(10_000)
        with pytest.raises(httpx.RemoteProtocolError):
            list(pieces)
    labels = {"api": "openai", "preset": "balanced", "outcome": "cancelled"}
    eventually(lambda: running.value("darkroom_requests_total", **labels) == 1)


def test_what_fails_before_the_first_row_is_an_error(patient: tuple[Patient, Running]) -> None:
    engine, running = patient
    late = running.post(NETWORK | {"deadline_ms": 300}, headers=PNG)
    assert (late.status_code, late.json()["error"]["code"]) == (504, "deadline_exceeded")
    engine.fails = True
    engine.allow(2)
    broken = running.post(NETWORK, headers=PNG)
    assert (broken.status_code, broken.json()["error"]["code"]) == (500, "engine_failure")


def test_a_long_enlargement_does_not_make_the_service_unready(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a call of the denoiser, and without an idle moment, the engine itself is asked."""
    waits, go = threading.Event(), threading.Event()

    def held(*arguments: Any) -> np.ndarray:
        waits.set()
        assert go.wait(30)
        return strip(*arguments)

    monkeypatch.setattr("service.upscaling.lanczos.strip", held)
    with serving() as running:
        monkeypatch.setattr("service.runner.FRESH", 0.0)
        done: list[httpx.Response] = []
        work = threading.Thread(target=lambda: done.append(running.post(LANCZOS)))
        work.start()
        try:
            assert waits.wait(30)
            assert running.client.get("/health/ready").status_code == 200
        finally:
            go.set()
            work.join()
        assert done[0].status_code == 200


def test_a_slow_client_holds_no_worker(running: Running) -> None:
    body = json.dumps(BODY | {"upscale": {"factor": 16}}).encode()
    with socket.create_connection(("127.0.0.1", int(running.url.rsplit(":", 1)[1]))) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        head = (
            f"POST /v1/images/generations HTTP/1.1\r\nHost: x\r\nAccept: image/png\r\nContent-Length: {len(body)}\r\n"
        )
        client.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)
        assert client.recv(12) == b"HTTP/1.1 200"
        eventually(lambda: running.parts.runner.idle, 60)


def test_a_job_counts_blocks_and_keeps_the_large_picture(tmp_path: Path) -> None:
    with serving(jobs_dir=tmp_path) as running:
        job = ended(running, accepted(running, NETWORK | {"n": 2}))
        assert job["status"] == "succeeded", job
        assert job["steps"] == job["steps_done"] == 2 * (2 + 64)  # steps of the sampler, blocks of the upsampler
        for number, recipe in enumerate(job["recipes"]):
            data = running.client.get(f"{at(job)}/pictures/{number}").content
            assert digest(data) == digest(running.post(recipe, headers=PNG).content)
