"""Input from an enemy: each gets a clear 4xx that names its field, or a picture, and the service answers afterwards."""

import asyncio
import base64
import json
import socket
from typing import Any

import pytest

from tests.api.harness import Running, serving

ROUTE = "/v1/images/generations"
GOOD: dict[str, Any] = {"prompt": "x", "size": "64x64", "num_inference_steps": 2, "seed": 1}


def refused(answer: Any, status: int, field: str | None) -> None:
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == field, error
    assert error["type"] == "invalid_request_error"
    assert 10 < len(error["message"]) <= 1000
    assert len(answer.content) < 3000


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("num_inference_steps", value) for value in (0, -1, 10**9, 201, 1.5, True, "20", [20], {})],
        *[("size", value) for value in ("0x0", "63x64", "65536x65536", "64x", "x", "64x64x64", "-64x64", 64, [])],
        ("size", "\uff16\uff14x64"),
        *[("width", value) for value in (0, 63, 10**9, True, "64", 64.5)],
        *[("seed", value) for value in (-1, 2**53, 10**29, True, False, 0.5, "7")],
        *[("preset", value) for value in ("nope", "../balanced", "", 1, "B" * 10_000)],
        *[("sampler", value) for value in ("nope", "__class__", 1)],
        *[("schedule", value) for value in ("nope", 1)],
        *[("prompt", value) for value in (None, 1, ["x"], {"a": 1}, True)],
        *[("guidance_scale", value) for value in (-1, 0, 10**9, True, "7")],
        *[("sigmas", value) for value in ([], [0.0], [1.0], [1.0, 2.0, 0.0], [1.0, -1.0, 0.0], ["1", 0], "x")],
        ("sigmas", [1] * 5000),
        *[("guidance_interval", value) for value in ([1], [5, 1], ["a", 2], [1, 2, 3], "x", 5)],
        *[("sampler_options", value) for value in ([], 1, "x")],
        *[("epsilon_scaling", value) for value in (1.005, [1], "x")],
        *[("negative_prompt", value) for value in (1, [])],
    ],
)
def test_wrong_values_are_refused_by_name(running: Running, field: str, value: object) -> None:
    body = {**GOOD, field: value}
    if field == "width":
        del body["size"]
    answer = running.post(body)
    assert answer.json()["error"]["param"].split(".")[0] == field
    refused(answer, 400, answer.json()["error"]["param"])


@pytest.mark.parametrize(
    ("extra", "field"),
    [
        ({"steps": 20}, "steps"),
        ({"cfg_scale": 7}, "cfg_scale"),
        ({"scheduler_name": "x"}, "scheduler_name"),
        ({"__proto__": {}}, "__proto__"),
        ({"": 1}, ""),
        ({"k" * 10_000: 1}, "k" * 200),
        ({"sampler_options": {"nope": 1}}, "sampler_options.nope"),
        ({"sampler": "euler_ancestral", "sampler_options": {"eta": True}}, "sampler_options.eta"),
        ({"schedule": "karras", "schedule_options": {"rho": "7"}}, "schedule_options.rho"),
        ({"epsilon_scaling": {"scale": 1.0, "nope": 1}}, "epsilon_scaling.nope"),
        ({"epsilon_scaling": {}}, "epsilon_scaling.scale"),
    ],
)
def test_unknown_and_inner_fields_are_refused_by_name(running: Running, extra: dict[str, Any], field: str) -> None:
    refused(running.post({**GOOD, **extra}), 400, field)


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        (b'{"prompt": "x", "num_inference_steps": NaN}', "num_inference_steps"),
        (b'{"prompt": "x", "guidance_scale": Infinity}', "guidance_scale"),
        (b'{"prompt": "x", "guidance_scale": 1e400}', "guidance_scale"),
        (b'{"prompt": "x", "seed": 1, "seed": 2}', "seed"),
        (b'{"prompt": "a\\u0000b"}', "prompt"),
        (b'{"prompt": "\\udc00"}', "prompt"),
        (b'{"prompt": "x"', None),
        (b"", None),
        (b"null", None),
        (b"[" * 100_000, None),
        (b'{"prompt": "\xff"}', None),
        (json.dumps({"prompt": "x"}).encode("utf-16"), None),
        (b"prompt=x", None),
    ],
)
def test_broken_json_is_refused(running: Running, raw: bytes, field: str | None) -> None:
    refused(running.client.post(ROUTE, content=raw, headers={"content-type": "application/json"}), 400, field)


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "application/jsonp"])
def test_other_content_types_are_refused(running: Running, kind: str | None) -> None:
    headers = {"content-type": kind} if kind else {}
    refused(running.client.post(ROUTE, content=json.dumps(GOOD), headers=headers), 415, None)


@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8", "Application/JSON ;x=y"])
def test_json_content_types_are_taken(running: Running, kind: str) -> None:
    answer = running.client.post(ROUTE, content=json.dumps(GOOD), headers={"content-type": kind})
    assert answer.status_code == 200


def test_ten_megabytes_are_refused_with_and_without_their_length(running: Running) -> None:
    body = json.dumps({**GOOD, "prompt": "x" * 10_000_000}).encode()
    headers = {"content-type": "application/json"}
    refused(running.client.post(ROUTE, content=body, headers=headers), 413, None)
    chunks = (body[at : at + 65_536] for at in range(0, len(body), 65_536))
    refused(running.client.post(ROUTE, content=chunks, headers=headers), 413, None)
    assert running.post(GOOD).status_code == 200


def test_emoji_newlines_and_right_to_left_text_make_pictures(running: Running) -> None:
    for prompt in ("🚤🏴‍☠️\u200d", "a\nb\tc", "قارب أحمر", "", " ", "\ufeffx", "\u202ex", "Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢"):
        made = running.post({**GOOD, "prompt": prompt}).json()["data"][0]
        assert made["recipe"]["prompt"] == prompt
        assert base64.b64decode(made["b64_json"])[:4] == b"\x89PNG"


def test_no_such_path_and_no_such_method_have_the_same_shape(running: Running) -> None:
    refused(running.post(GOOD, path="/v1/images/edits"), 404, None)
    refused(running.client.get("/v1/nope"), 404, None)
    refused(running.client.get("/no/such/page"), 404, None)
    refused(running.client.get("/..%2f..%2fapp.py"), 404, None)
    refused(running.client.get("/" + "a" * 5000), 404, None)
    refused(running.client.get("/a%00b"), 404, None)
    wrong = running.client.get(ROUTE)
    refused(wrong, 405, None)
    assert wrong.headers["allow"] == "POST"
    refused(running.client.get("/v1/models/nope"), 404, "model")
    refused(running.post({**GOOD, "model": "dall-e-3"}), 404, "model")


def raw(running: Running, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", int(running.url.rsplit(":", 1)[1])), timeout=10) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        received = b""
        while chunk := connection.recv(65_536):
            received += chunk
        return received


def test_bytes_that_are_no_http_and_bodies_that_end_early(running: Running) -> None:
    head = f"POST {ROUTE} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n".encode()
    raw(running, head + b'content-length: 1000\r\n\r\n{"prompt": "x"')
    assert raw(running, b"\x16\x03\x01\x02\x00garbage\r\n\r\n").startswith(b"HTTP/1.1 400")
    assert raw(running, head + b"content-length: -5\r\n\r\n").startswith(b"HTTP/1.1 400")
    assert raw(running, b"GET /health/live HTTP/1.1\r\nx-request-id: a\x01b\r\n\r\n").startswith(b"HTTP/1.1")
    raw(running, head + b"transfer-encoding: chunked\r\n\r\nZZ\r\n")
    assert running.client.get("/health/live").status_code == 200


def test_a_thousand_parallel_connections_each_get_an_answer() -> None:
    async def ask(port: int, body: bytes) -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = f"POST {ROUTE} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        writer.write(head.encode() + b"connection: close\r\n\r\n" + body)
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return int(answer.split()[1])

    async def all_at_once(port: int) -> list[int]:
        return await asyncio.gather(*(ask(port, json.dumps(GOOD).encode()) for _ in range(1000)))

    with serving() as service:
        statuses = asyncio.run(all_at_once(int(service.url.rsplit(":", 1)[1])))
        assert set(statuses) <= {200, 429}
        assert statuses.count(200) >= 72  # what runs and what waits
        assert service.post(GOOD).status_code == 200
        assert service.parts.runner.idle
