"""Previews as server-sent events: OpenAI's two events, previews that are x0, errors inside the stream."""

import base64
import io
import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from PIL import Image

from service.api import streaming
from service.engines.contract import Ticket
from service.engines.gaussian import PREVIEW, GaussianEngine
from service.images import recipe_of
from service.pipeline import generate
from service.progress import Progress
from service.recipe import Recipe
from tests.api.harness import Held, Running, eventually, serving

BODY: dict[str, Any] = {"prompt": "x", "size": "64x64", "seed": 7, "num_inference_steps": 8, "stream": True}
ROUTE = "/v1/images/generations"


def events(lines: Iterator[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The WHATWG event stream format, as far as it is used."""
    name = ""
    for line in lines:
        kind, _, value = line.partition(": ")
        if kind == "event":
            name = value
        elif kind == "data":
            yield name, json.loads(value)


def streamed(running: Running, **fields: Any) -> list[tuple[str, dict[str, Any]]]:
    with running.client.stream("POST", ROUTE, json={**BODY, **fields}) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["x-accel-buffering"] == "no"
        return list(events(answer.iter_lines()))


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_the_stream_ends_in_the_picture_that_json_would_have_held(running: Running, count: int) -> None:
    *partial, (name, completed) = streamed(running, partial_images=count)
    assert name == completed["type"] == "image_generation.completed"
    assert [data["partial_image_index"] for _, data in partial] == list(range(count))
    assert {name for name, _ in partial} <= {"image_generation.partial_image"}
    made = running.post({**BODY, "stream": False}).json()["data"][0]
    assert (completed["b64_json"], completed["recipe"]) == (made["b64_json"], made["recipe"])
    assert (completed["size"], completed["output_format"]) == ("64x64", "png")


def test_previews_are_x0_through_the_models_map(running: Running) -> None:
    partial = [data for name, data in streamed(running, partial_images=3) if name.endswith("partial_image")]
    recipe = Recipe.model_validate(running.post({**BODY, "stream": False}).json()["data"][0]["recipe"])
    seen: dict[int, np.ndarray] = {}
    watch = Progress(recipe, Ticket(), lambda progress, x0, _: seen.setdefault(progress.step, x0))
    generate(GaussianEngine(), recipe, Ticket(), watch)
    assert [data["step"] for data in partial] == [2, 4, 6]
    for data in partial:
        x0 = seen[data["step"]]
        colours = sum(x0[c][..., None] * np.array(PREVIEW[c]) for c in range(4)) + np.array(PREVIEW[4])
        small = np.round(np.clip((colours + 1) / 2, 0, 1) * 255).astype(np.uint8)
        with Image.open(io.BytesIO(base64.b64decode(data["b64_json"]))) as image:
            assert image.size == (64, 64)
            assert np.array_equal(np.asarray(image), Image.fromarray(small).resize((64, 64), Image.Resampling.BICUBIC))
            assert "darkroom" not in image.info


def test_fewer_steps_than_previews_are_fewer_previews(running: Running) -> None:
    assert [name for name, _ in streamed(running, partial_images=3, num_inference_steps=1)] == [
        "image_generation.completed"
    ]
    assert len(streamed(running, partial_images=3, num_inference_steps=3)) == 3


def test_previews_and_picture_have_the_format_asked_for(running: Running) -> None:
    data = [base64.b64decode(d["b64_json"]) for _, d in streamed(running, partial_images=1, output_format="jpeg")]
    assert [content[:2] for content in data] == [b"\xff\xd8"] * 2
    assert recipe_of(data[1])["seed"] == 7


def test_the_openai_client_streams(running: Running) -> None:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as client:
        stream = client.images.generate(
            prompt="x", size="256x256", stream=True, partial_images=2, extra_body={"num_inference_steps": 6, "seed": 1}
        )
        kinds = [event.type for event in stream]
        assert kinds == ["image_generation.partial_image"] * 2 + ["image_generation.completed"]


@pytest.mark.parametrize(
    ("fields", "headers", "status", "field"),
    [
        ({"n": 2}, {}, 400, "n"),
        ({"partial_images": 4}, {}, 400, "partial_images"),
        ({"partial_images": True}, {}, 400, "partial_images"),
        ({"partial_images": 1, "stream": False}, {}, 400, "partial_images"),
        ({"partial_images": 0, "stream": None}, {}, 400, "partial_images"),
        ({"stream": 1}, {}, 400, "stream"),
        ({"stream": "true"}, {}, 400, "stream"),
        ({"num_inference_steps": 0}, {}, 400, "num_inference_steps"),
        ({}, {"accept": "image/png"}, 406, None),
        ({"stream": False}, {"accept": "text/event-stream"}, 406, None),
    ],
)
def test_what_is_wrong_is_refused_before_the_stream(
    running: Running, fields: dict[str, Any], headers: dict[str, str], status: int, field: str | None
) -> None:
    answer = running.post({**BODY, **fields}, headers=headers)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, field), answer.text


def test_what_fails_later_is_an_event_that_the_openai_client_raises(running: Running) -> None:
    ((name, data),) = streamed(running, prompt="x" * 1025)
    assert name == "error"
    assert (data["error"]["param"], data["error"]["code"]) == ("prompt", "invalid_value")
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as client:
        stream = client.images.generate(prompt="x" * 1025, stream=True)
        with pytest.raises(openai.APIError, match="tokens"):
            list(stream)


def test_too_much_is_429_and_not_a_stream() -> None:
    engine = Held()
    with (
        serving(engine, max_concurrency=1, max_wait_seconds=1) as running,
        running.client.stream("POST", ROUTE, json=BODY) as first,
    ):
        assert first.status_code == 200
        eventually(lambda: engine.calls)
        refused = running.post(BODY)
        assert (refused.status_code, refused.headers["retry-after"] > "0") == (429, True)
        engine.go.set()
        assert [name for name, _ in events(first.iter_lines())] == ["image_generation.completed"]


def test_the_place_in_the_queue_keeps_the_connection_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "KEEP_ALIVE", 0.02)
    engine = Held()
    with serving(engine, max_concurrency=1) as running, running.client.stream("POST", ROUTE, json=BODY) as first:
        eventually(lambda: engine.calls)
        with running.client.stream("POST", ROUTE, json={**BODY, "seed": 8}) as second:
            with httpx.Client(base_url=running.url) as client, client.stream("POST", ROUTE, json=BODY) as third:
                lines = third.iter_lines()
                assert [next(lines) for _ in range(3)] == [": 1 ahead", "", ": 1 ahead"]
                engine.go.set()
                assert [name for name, _ in events(lines)] == ["image_generation.completed"]
            assert len(list(events(second.iter_lines()))) == 1
        assert len(list(events(first.iter_lines()))) == 1


def test_who_leaves_the_stream_frees_the_engine() -> None:
    engine = Held()
    with serving(engine) as running:
        with httpx.Client(base_url=running.url) as client, client.stream("POST", ROUTE, json=BODY) as answer:
            lines = answer.iter_lines()  # forgotten, it would close the stream
            assert next(lines).startswith(":")
            eventually(lambda: engine.calls)
        eventually(engine.calls[0].cancelled.is_set)
        engine.go.set()
        eventually(lambda: running.parts.runner.idle)
        assert len(engine.calls) == 1
        labels = {"api": "openai", "preset": "balanced", "outcome": "cancelled"}
        eventually(lambda: running.value("darkroom_requests_total", **labels) == 1)
