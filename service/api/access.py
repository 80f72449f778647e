"""Around every request: its id, its one log line, its count. Prompts are in none of them."""

import json
import logging
import re
import secrets
import time
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.errors import render
from service.metrics import Metrics
from service.tracing import CURRENT, SILENT, Trace, Tracing

log = logging.getLogger("darkroom")

REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}", re.ASCII)
TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")  # W3C Trace Context, 3.2
FAMILIES = {"/v1/": "openai"}


class Access:
    """The outermost middleware: nothing that happens inside escapes without an id, a line and a count."""

    def __init__(self, app: ASGIApp, metrics: Metrics, tracing: Tracing | None) -> None:
        self.app, self.metrics, self._tracing = app, metrics, tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id, trace_id = identify(Headers(scope=scope))
        record: dict[str, Any] = {"request_id": request_id, "trace_id": trace_id}
        trace = self._begin(scope, record)
        scope.setdefault("state", {})["record"] = record
        status, started = 499, time.perf_counter()

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                headers["openai-processing-ms"] = str(round((time.perf_counter() - started) * 1000))
            await send(message)

        try:
            await self.app(scope, receive, answer)
        except Exception:
            log.exception("internal error", extra={"fields": {"request_id": request_id}})
            record["outcome"] = "internal_error"
            if status == 499:  # nothing was sent yet
                message = f"internal error; the log has it under {request_id}"
                await render(500, message, "internal_error")(scope, receive, answer)
        self._count(scope, record, status, time.perf_counter() - started)
        route = getattr(scope.get("route"), "path", "")
        trace.end(f"{scope['method']} {route}".strip(), status, record)

    def _begin(self, scope: Scope, record: dict[str, Any]) -> Trace:
        """The trace of a request to the API, where traces are wanted; everything under it finds it in its context."""
        if self._tracing is None or not scope["path"].startswith(tuple(FAMILIES)):
            return SILENT
        trace = self._tracing.begin(scope["method"], Headers(scope=scope))
        CURRENT.set(trace)
        record["trace_id"] = trace.traceparent[3:35] or record["trace_id"]
        return trace

    def _count(self, scope: Scope, record: dict[str, Any], status: int, seconds: float) -> None:
        family = next((name for prefix, name in FAMILIES.items() if scope["path"].startswith(prefix)), None)
        outcome = record.setdefault("outcome", "ok" if status < 400 else "http_error")
        if family:
            labels = family, record.get("preset", "none"), outcome
            self.metrics.requests.labels(*labels).inc()
            self.metrics.duration.labels(*labels).observe(seconds)
        line = {"method": scope["method"], "path": scope["path"], "status": status, "seconds": round(seconds, 6)}
        log.log(logging.INFO if family else logging.DEBUG, "request", extra={"fields": {**line, **record}})


def identify(headers: Headers) -> tuple[str, str | None]:
    """The caller's request id if it is a decent one, else a new one; the trace id of a valid traceparent."""
    given = headers.get("x-request-id", "")
    request_id = given if REQUEST_ID.fullmatch(given) else f"req-{secrets.token_hex(12)}"
    trace = TRACEPARENT.fullmatch(headers.get("traceparent", ""))
    return request_id, trace.group(1) if trace else None


class JsonLines(logging.Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)
