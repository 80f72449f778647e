"""Traces: one server span, its parts under it, the caller's trace continued, told to Triton, and no prompt anywhere."""

import json
import logging
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from service import tracing
from service.app import create_app
from service.engines import endpoints
from service.engines.contract import Ticket
from service.engines.gaussian import GaussianEngine
from service.errors import EngineFailure, InvalidRequest
from service.settings import Settings
from service.tracing import Recorded, Tracing, open_tracing
from tests.api.test_streaming import ROUTE

SECRET = "a café that nobody may read of"
BODY: dict[str, Any] = {
    "prompt": SECRET,
    "negative_prompt": f"not {SECRET}",
    "size": "64x64",
    "seed": 7,
    "preset": "fast",
}
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"  # the example of W3C Trace Context
CALLER = {"traceparent": f"00-{TRACE}-{PARENT}-01"}


@contextmanager
def traced(folder: Path, engine: Any = None) -> Iterator[tuple[TestClient, InMemorySpanExporter]]:
    exporter = InMemorySpanExporter()
    settings = Settings(engine="gaussian", cache_dir=folder)
    app = create_app(settings, engine or GaussianEngine(), Tracing(SimpleSpanProcessor(exporter)))
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client, exporter


def split(spans: Sequence[ReadableSpan]) -> tuple[ReadableSpan, list[ReadableSpan]]:
    """The server span, and those under it in order of their start."""
    (server,) = [span for span in spans if span.kind.name == "SERVER"]
    under = [span for span in spans if span is not server]
    assert {span.parent and span.parent.span_id for span in under} <= {server.context.span_id}
    assert {span.context.trace_id for span in spans} == {server.context.trace_id}
    return server, sorted(under, key=lambda span: span.start_time or 0)


def test_a_request_is_one_span_with_its_parts_under_it(tmp_path: Path) -> None:
    with traced(tmp_path) as (client, exporter):
        answer = client.post(ROUTE, json=BODY, headers=CALLER)
        assert answer.status_code == 200
        explained = client.post("/v1/explain", json=BODY).json()["steps"]
        server, parts = split(exporter.get_finished_spans()[:-1])
    assert server.name == f"POST {ROUTE}"
    names = [part.name for part in parts]
    assert names == ["queue", "text_encoder", "text_encoder", *["unet"] * len(explained), "vae_decoder", "encode"]
    rows = [part.attributes and part.attributes["rows"] for part in parts if part.name == "unet"]
    assert rows == [len(step["rows"]) for step in explained]
    for earlier, later in pairwise(parts):
        assert (server.start_time or 0) <= (earlier.start_time or 0) <= (earlier.end_time or 0)
        assert (earlier.end_time or 0) <= (later.start_time or 0) + 1_000_000  # one clock is converted to the other
    attributes = dict(server.attributes or {})
    recipe = answer.json()["data"][0]["recipe"]
    for name in ("prompt", "negative_prompt"):
        assert SECRET in recipe.pop(name)
    assert json.loads(str(attributes.pop("darkroom.recipe"))) == recipe
    assert attributes.pop("darkroom.request_id") == answer.headers["x-request-id"]
    assert attributes == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "gen_ai.output.type": "image",
        "gen_ai.request.model": "gaussian",
        "darkroom.preset": "fast",
        "darkroom.outcome": "ok",
    }


def test_an_enlargement_is_a_span_of_its_own(tmp_path: Path) -> None:
    with traced(tmp_path) as (client, exporter):
        body = {**BODY, "upscale": {"factor": 4, "method": "lanczos"}}
        assert client.post(ROUTE, json=body).status_code == 200
        _, parts = split(exporter.get_finished_spans())
    assert [part.name for part in parts][-2:] == ["vae_decoder", "upscale"]


def test_no_span_tells_the_prompt(tmp_path: Path) -> None:
    with traced(tmp_path) as (client, exporter):
        for body in (BODY, {**BODY, "stream": True}, {**BODY, "sampler": SECRET}, {**BODY, "seed": -1}):
            client.post(ROUTE, json=body)
        text = "".join(span.to_json() for span in exporter.get_finished_spans())
    assert text.count("darkroom.recipe") >= 2
    assert "nobody" not in text


def test_the_callers_trace_goes_on_and_the_log_names_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "darkroom")
    with traced(tmp_path) as (client, exporter):
        client.post(ROUTE, json=BODY, headers=CALLER)
        server, _ = split(exporter.get_finished_spans())
        assert server.parent
        assert f"{server.context.trace_id:032x}-{server.parent.span_id:016x}" == f"{TRACE}-{PARENT}"
        exporter.clear()
        client.get("/v1/models", headers={"traceparent": "00-not-one-01"})
        (alone,) = exporter.get_finished_spans()
        assert (alone.parent, alone.name) == (None, "GET /v1/models")
        exporter.clear()
        client.get(f"/v1/jobs/{TRACE}")
        client.get(f"/v1/models/{TRACE}")
        assert {span.name for span in exporter.get_finished_spans()} == {
            "GET /v1/jobs/{job_id}",
            "GET /v1/models/{model}",
        }
        exporter.clear()
        client.get("/health/live")
        client.get("/metrics")
        client.post(ROUTE, json=BODY, headers={"traceparent": f"00-{TRACE}-{PARENT}-00"})  # which nobody keeps
        assert exporter.get_finished_spans() == ()
    logged = [
        fields["trace_id"] for record in caplog.records if "trace_id" in (fields := getattr(record, "fields", {}))
    ]
    assert logged[:2] == [TRACE, f"{alone.context.trace_id:032x}"]


class Broken(GaussianEngine):
    def decode(self, *_: Any) -> Any:
        raise EngineFailure("broken")


def test_a_failure_is_seen_where_it_happened(tmp_path: Path) -> None:
    with traced(tmp_path, Broken()) as (client, exporter):
        assert client.post(ROUTE, json=BODY).status_code == 500
        server, parts = split(exporter.get_finished_spans())
    assert [span.name for span in (server, *parts) if not span.status.is_ok] == [server.name, "vae_decoder"]


def test_requests_beside_each_other_keep_their_own_spans(tmp_path: Path) -> None:
    with traced(tmp_path) as (client, exporter), ThreadPoolExecutor(4) as pool:
        headers = [{"traceparent": f"00-{number:032x}-{PARENT}-01"} for number in range(1, 9)]
        list(pool.map(lambda one: client.post(ROUTE, json=BODY, headers=one), headers))
        spans = exporter.get_finished_spans()
    for number in range(1, 9):
        _, parts = split([span for span in spans if span.context.trace_id == number])
        assert [part.name for part in parts].count("unet") == 8


def test_spans_under_a_request_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "LIMIT", 5)
    with traced(tmp_path) as (client, exporter):
        assert client.post(ROUTE, json={**BODY, "num_inference_steps": 50}).status_code == 200
        _, parts = split(exporter.get_finished_spans())
    assert [part.name for part in parts] == ["queue", *["text_encoder"] * 2, *["unet"] * 3, "encode"]


def test_triton_is_told_the_trace() -> None:
    tracer = Tracing(SimpleSpanProcessor(InMemorySpanExporter()))
    trace: Recorded = tracer.begin("POST", CALLER)
    ((name, value),) = endpoints._metadata(Ticket(trace=trace))
    assert (name, value.split("-")[1]) == ("traceparent", TRACE)
    assert value.split("-")[2] != PARENT
    assert endpoints._metadata(Ticket()) == []


def test_opentelemetry_may_be_switched_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    with traced(tmp_path) as (client, exporter):
        assert client.post(ROUTE, json=BODY, headers=CALLER).status_code == 200
        assert exporter.get_finished_spans() == ()


def test_without_an_address_or_the_extra_there_is_no_tracing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_tracing(None) is None
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(InvalidRequest, match=r"darkroom\[otel\]"):
        open_tracing("http://127.0.0.1:4318/v1/traces")
