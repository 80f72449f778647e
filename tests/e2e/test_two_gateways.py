"""Two gateways behind the real nginx, restarted in turn under load: no request fails, and SIGTERM finishes its work."""

import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from itertools import cycle
from pathlib import Path
from typing import Any

import httpx

from tests.api.harness import eventually

NGINX = Path("/usr/sbin/nginx")
ROUTE = "/v1/images/generations"
DEPLOY = (Path(__file__).parents[2] / "docs" / "deploy.md").read_text()
BODIES: list[dict[str, Any]] = [
    {"prompt": "a café 🚤", "seed": 1, "size": "64x64"},
    {"prompt": "the sea", "seed": 2, "size": "256x256", "stream": True, "partial_images": 2},
    {"prompt": "a hill", "seed": 3, "size": "64x64", "sampler": "dpmpp_2m_sde", "n": 2},
]
LONG = {"prompt": "x", "seed": 4, "size": "512x512", "sampler": "heun", "num_inference_steps": 20, "stream": True}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class Gateway:
    """A gateway at a port of its own, which it keeps when it is restarted."""

    def __init__(self, cache: Path) -> None:
        self.port = free_port()
        self._environment = os.environ | {"DARKROOM_CACHE_DIR": str(cache)}
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "service", "serve", "--engine", "gaussian", "--port", str(self.port)]
        self.process = subprocess.Popen(
            command, env=self._environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def wait(self) -> None:
        """Until pictures can be asked for."""
        assert self.process.stdout
        assert self.process.stdout.readline()

    def close(self) -> None:
        self.process.kill()
        self.process.wait(30)
        assert self.process.stdout
        self.process.stdout.close()


@contextmanager
def nginx(folder: Path, gateways: list[Gateway]) -> Iterator[str]:
    """nginx with the configuration of docs/deploy.md, and a log of who answered."""
    found = re.search(r"```nginx\n(.*?)```", DEPLOY, re.S)
    assert found
    port = free_port()
    servers = found[1].replace("listen 80;", f"listen 127.0.0.1:{port};")
    for number, gateway in enumerate(gateways, 1):
        servers = servers.replace(f"10.0.0.{number}:8000", f"127.0.0.1:{gateway.port}")
    assert "10.0.0." not in servers
    paths = "".join(
        f"{kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/errors;\nevents {{}}\n"
        f"http {{\n{paths}log_format us '$status|$upstream_addr|$upstream_status';\n"
        f"access_log {folder}/answers us;\n{servers}}}\n"
    )
    process = subprocess.Popen([NGINX, "-p", folder, "-c", folder / "nginx.conf", "-e", folder / "errors"])
    try:
        url = f"http://127.0.0.1:{port}"
        eventually(lambda: reachable(url))
        yield url
    finally:
        process.send_signal(signal.SIGQUIT)
        assert process.wait(20) == 0


def reachable(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health/live").status_code == 200
    except httpx.TransportError:
        return False


def made(client: httpx.Client, body: dict[str, Any]) -> str:
    """Digest of the pictures of a request that must succeed."""
    answer = client.post(ROUTE, json=body)
    assert answer.status_code == 200, answer.text[:500]
    return digest_of([completed(answer.text)] if "stream" in body else answer.json()["data"])


def completed(stream: str) -> dict[str, Any]:
    """The data of the last of these events, which brings the picture."""
    data: dict[str, Any] = json.loads(stream.strip().split("\n\n")[-1].split("data: ", 1)[1])
    assert data["type"] == "image_generation.completed", data
    return data


def digest_of(pictures: list[dict[str, Any]]) -> str:
    return sha256(b"".join(base64.b64decode(picture["b64_json"]) for picture in pictures)).hexdigest()


def load(url: str, digests: list[str], first: int, enough: threading.Event) -> int:
    """Requests one after the other until it is enough: how many."""
    turns = cycle(enumerate(BODIES))
    for _ in range(first):
        next(turns)
    with httpx.Client(base_url=url, timeout=60) as client:
        for count, (number, body) in enumerate(turns):
            if enough.is_set():
                return count
            assert made(client, body) == digests[number]
    return 0


def restart(gateway: Gateway, digest: str) -> None:
    """SIGTERM while a long picture is in progress, which is finished; then the gateway again."""
    url = f"http://127.0.0.1:{gateway.port}{ROUTE}"
    with httpx.stream("POST", url, json=LONG, timeout=60) as answer:
        lines = answer.iter_lines()
        assert "ahead" in next(lines)  # it is admitted
        gateway.process.send_signal(signal.SIGTERM)
        assert digest_of([completed("\n".join(lines))]) == digest
    assert gateway.process.wait(30) == 0
    gateway.close()
    gateway.start()
    gateway.wait()


def test_gateways_restarted_in_turn_under_load_fail_no_request(tmp_path: Path) -> None:
    with ExitStack() as stack:
        gateways = [Gateway(tmp_path / name) for name in ("one", "two")]
        for gateway in gateways:
            stack.callback(gateway.close)
            gateway.wait()
        url = stack.enter_context(nginx(tmp_path, gateways))
        pool = stack.enter_context(ThreadPoolExecutor(3))
        with httpx.Client(base_url=url, timeout=60) as client:
            *digests, long = [made(client, body) for body in (*BODIES, LONG)]
        enough = threading.Event()
        stack.callback(enough.set)
        clients: list[Future[int]] = [pool.submit(load, url, digests, first, enough) for first in range(3)]
        for gateway in gateways:
            restart(gateway, long)
        enough.set()
        assert sum(client.result(60) for client in clients) > 20
    answers = [line.split("|") for line in (tmp_path / "answers").read_text().splitlines()]
    assert {status for status, _, _ in answers} == {"200"}
    assert any(", " in statuses for _, _, statuses in answers)  # some had to be asked twice
    last = {addresses.split(", ")[-1] for _, addresses, _ in answers}
    assert last == {f"127.0.0.1:{gateway.port}" for gateway in gateways}
