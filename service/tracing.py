"""OpenTelemetry traces of requests, W3C trace context in and out; off unless the settings name a collector.

One server span for a request; under it its wait, its network calls (each with its wait in the gate) and its encoding,
or its enlargement, whose file is written as it grows. No prompt is in any of them.
"""
# ruff: noqa: ARG002 (a trace that records nothing needs no arguments)

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from service import __version__
from service.errors import InvalidRequest

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.trace import Span, Tracer

PATIENCE = 2.0  # seconds for a collector that does not answer: a stop waits for them
LIMIT = 512  # spans under one request; what exceeds it is left out


class Trace:
    """The trace of one request; this one records nothing."""

    traceparent = ""  # W3C Trace Context, for whom we ask; empty: nothing to tell

    @contextmanager
    def span(self, name: str, **attributes: int | str) -> Iterator[None]:
        """Around work that is done for this request, from any thread."""
        yield

    def past(self, name: str, start: float, end: float) -> None:
        """Work that is done, by time.perf_counter()."""

    def end(self, name: str, status: int, record: Mapping[str, Any]) -> None:
        """The request is answered. ``record``: what the log says of it."""


SILENT = Trace()
CURRENT: ContextVar[Trace] = ContextVar("trace", default=SILENT)


class Recorded(Trace):
    """The trace of one request under an OpenTelemetry span."""

    def __init__(self, tracer: "Tracer", span: "Span") -> None:
        from opentelemetry import trace
        from opentelemetry.trace.propagation import tracecontext

        self._tracer, self._span, self._left = tracer, span, LIMIT
        self._context = trace.set_span_in_context(span)
        carrier: dict[str, str] = {}
        tracecontext.TraceContextTextMapPropagator().inject(carrier, self._context)
        self.traceparent = carrier.get("traceparent", "")  # none where OTEL_SDK_DISABLED says so

    @contextmanager
    def span(self, name: str, **attributes: int | str) -> Iterator[None]:
        self._left -= 1
        if self._left < 0:
            yield
            return
        with self._tracer.start_as_current_span(name, self._context, attributes=attributes, record_exception=False):
            yield

    def past(self, name: str, start: float, end: float) -> None:
        offset = time.time_ns() - time.perf_counter_ns()
        begun, ended = (int(seconds * 1e9) + offset for seconds in (start, end))
        self._tracer.start_span(name, self._context, start_time=begun).end(ended)

    def end(self, name: str, status: int, record: Mapping[str, Any]) -> None:
        from opentelemetry.trace import StatusCode

        self._span.update_name(name)
        self._span.set_attributes({"http.response.status_code": status, "gen_ai.output.type": "image"})
        for field in ("request_id", "preset", "outcome", "key", "job"):
            if field in record:
                self._span.set_attribute(f"darkroom.{field}", record[field])
        if "recipe" in record:
            self._span.set_attribute("gen_ai.request.model", record["recipe"]["model"])
            self._span.set_attribute("darkroom.recipe", json.dumps(record["recipe"]))
        if status >= 500:
            self._span.set_status(StatusCode.ERROR)
        self._span.end()


class Tracing:
    """Makes the traces. Its sampler and resource follow OpenTelemetry's environment variables."""

    def __init__(self, processor: "SpanProcessor") -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider

        named = Resource.create({"service.name": "darkroom", "service.version": __version__})
        self._provider = TracerProvider(resource=named, shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("darkroom", __version__)

    def begin(self, method: str, headers: Mapping[str, str]) -> Recorded:
        """The trace of a request, which goes on with the caller's if it sent one."""
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation import tracecontext

        given = {name: headers[name] for name in ("traceparent", "tracestate") if name in headers}
        context = tracecontext.TraceContextTextMapPropagator().extract(given)
        attributes = {"http.request.method": method}
        return Recorded(self._tracer, self._tracer.start_span(method, context, SpanKind.SERVER, attributes))

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()


def open_tracing(endpoint: str | None) -> Tracing | None:
    """Spans go to this OTLP collector over HTTP; none: nothing is traced."""
    if endpoint is None:
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        message = "DARKROOM_OTLP_ENDPOINT needs the extra: pip install 'darkroom[otel]'"
        raise InvalidRequest(message, field="otlp_endpoint") from error
    return Tracing(BatchSpanProcessor(OTLPSpanExporter(endpoint, timeout=PATIENCE)))
