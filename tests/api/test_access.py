"""Request ids, trace ids, one line per request without prompts, errors without details."""

import json
import logging
from typing import Any

import pytest

from service.api.access import JsonLines
from service.engines.gaussian import GaussianEngine
from tests.api.harness import Running, eventually, serving

BODY = {"prompt": "an unmistakable secret", "negative_prompt": "an unmistakable secret", "size": "64x64", "seed": 1}


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [json.loads(JsonLines().format(record)) for record in caplog.records if record.name == "darkroom"]


@pytest.mark.parametrize("given", ["abc-123", "a" * 128, "6F9619FF-8B86-D011-B42D-00CF4FC964FF", "req:1/2+3=_."])
def test_a_decent_request_id_is_kept(running: Running, given: str) -> None:
    assert running.client.get("/v1/models", headers={"x-request-id": given}).headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "a" * 129, "a b", "a\tb", "<script>", "a,b", '"', "caf\xe9"])
def test_any_other_is_replaced(running: Running, given: str) -> None:
    answer = running.client.get("/v1/models", headers={"x-request-id": given.encode("latin-1")})
    assert answer.headers["x-request-id"].startswith("req-")


def test_ids_differ_and_stand_on_errors_and_pages_too(running: Running) -> None:
    paths = ["/v1/models", "/v1/nope", "/", "/health/live", "/metrics"]
    ids = {running.client.get(path).headers["x-request-id"] for path in paths}
    assert len(ids) == len(paths)


def test_one_line_per_request_without_prompts(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "darkroom")
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {"x-request-id": "mine", "traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
    answer = running.post({**BODY, "user": "u-1"}, headers=headers)
    eventually(lambda: lines(caplog))
    (line,) = lines(caplog)
    assert (line["request_id"], line["trace_id"], line["status"], line["outcome"]) == ("mine", trace, 200, "ok")
    assert (line["method"], line["path"], line["user"]) == ("POST", "/v1/images/generations", "u-1")
    recipe = answer.json()["data"][0]["recipe"]
    assert line["recipe"] == {k: v for k, v in recipe.items() if k not in ("prompt", "negative_prompt")}
    assert "secret" not in json.dumps(line)


@pytest.mark.parametrize("traceparent", ["", "00-xyz-1-01", "00-" + "A" * 32 + "-" + "b" * 16 + "-01"])
def test_a_malformed_traceparent_is_no_trace(running: Running, caplog: Any, traceparent: str) -> None:
    caplog.set_level(logging.INFO, "darkroom")
    running.client.get("/v1/models", headers={"traceparent": traceparent})
    eventually(lambda: lines(caplog))
    assert lines(caplog)[0]["trace_id"] is None


def test_a_bug_is_a_500_without_details_and_a_log_line_with_them(caplog: pytest.LogCaptureFixture) -> None:
    class Buggy(GaussianEngine):
        def decode(self, *_: object) -> Any:
            raise ZeroDivisionError("an inner secret")

    with serving(Buggy()) as running:
        answer = running.post({**BODY, "prompt": "x"}, headers={"x-request-id": "mine"})
        assert answer.status_code == 500
        error = answer.json()["error"]
        assert (error["type"], error["code"], error["param"]) == ("server_error", "internal_error", None)
        assert "mine" in error["message"]
        assert "inner secret" not in answer.text
        assert answer.headers["x-request-id"] == "mine"
        assert running.value("darkroom_requests_total", api="openai", preset="balanced", outcome="internal_error") == 1
        assert running.parts.runner.idle
    shown = next(line for line in lines(caplog) if line["level"] == "error")
    assert (shown["request_id"], "inner secret" in shown["exception"]) == ("mine", True)
