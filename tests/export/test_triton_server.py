"""`make run ENGINE=triton` and what it is made of: the server and a command beside it, together until the end."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from export.triton_config import configure
from export.triton_server import SHM, TritonServer, free_port
from service.errors import Unavailable
from service.settings import ROOT
from tests.api.harness import eventually
from tests.engines.tiny import NAME, write_repository

pytestmark = pytest.mark.triton

TEXT = f"{NAME}_text_encoder"
READY = """
import signal, sys, time, grpc, os
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub as Stub
stub = Stub(grpc.insecure_channel(os.environ["DARKROOM_TRITON_URL"]))
ready = lambda: stub.ModelReady(pb.ModelReadyRequest(name="tiny_text_encoder"), timeout=5).ready
"""
WORK = READY + "sys.exit(7 if ready() else 1)"
SERVE = (
    READY
    + """
def drain(number, frame):
    time.sleep(0.2)
    print(f"signal {number}, Triton ready: {ready()}", flush=True)
    sys.exit(0)

signal.signal(signal.SIGINT, drain)
print("serving", os.getpid(), flush=True)
for _ in range(6000):
    time.sleep(0.1)  # a signal that comes just before a sleep is handled after it
"""
)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One network is enough."""
    folder = tmp_path_factory.mktemp("repository")
    configure(folder / TEXT, write_repository(folder), "text_encoder")
    for entry in folder.iterdir():
        if entry.name != TEXT:
            shutil.rmtree(entry)
    return folder


@pytest.fixture
def port() -> Iterator[int]:
    """A port for Triton, the next one free for its metrics; at the end nobody listens there and nothing is left."""
    port = free_port()
    yield port
    eventually(lambda: not processes(f"--grpc-port={port}") and not processes(f"darkroom_triton_{port}_"))
    assert not regions(port)


def regions(port: int) -> list[Path]:
    return list(SHM.glob(f"darkroom_triton_{port}_*"))


def processes(word: str) -> list[int]:
    """Those with this in their command line."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if word in (folder / "cmdline").read_text():
                found.append(int(folder.name))
        except OSError:  # it has ended meanwhile
            continue
    return found


def beside(repository: Path, port: int, program: str) -> Any:
    """python -m export.triton_server with a program."""
    return subprocess.Popen(
        [sys.executable, "-m", "export.triton_server", sys.executable, "-c", program],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        env=os.environ | {"DARKROOM_TRITON_URL": f"127.0.0.1:{port}", "DARKROOM_MODEL_REPOSITORY": str(repository)},
    )  # fmt: skip


def line_with(process: Any, word: str) -> str:
    """The next line of its output that has the word."""
    seen = []
    for line in process.stdout:
        if word in line:
            return line
        seen.append(line)
    raise AssertionError("".join(seen))


def test_the_command_has_a_ready_server_and_its_status_is_ours(repository: Path, port: int) -> None:
    (SHM / f"darkroom_triton_{port}_left_by_a_killed_server").touch()
    with beside(repository, port, WORK) as process:
        output = process.stdout.read()
    assert process.returncode == 7, output


def test_after_a_signal_the_command_ends_first(repository: Path, port: int) -> None:
    with beside(repository, port, SERVE) as process:
        line_with(process, "serving")
        os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C in a terminal, which reaches the whole group
        assert process.stdout.read() == "signal 2, Triton ready: True\n"
    assert process.returncode == 0


def test_who_is_killed_leaves_no_orphans(repository: Path, port: int) -> None:
    with beside(repository, port, SERVE) as process:
        command = int(line_with(process, "serving").split()[1])
        process.kill()
        eventually(lambda: not Path(f"/proc/{command}").exists())
    eventually(lambda: not regions(port))


def test_a_server_that_dies_takes_the_command_along(repository: Path, port: int) -> None:
    with beside(repository, port, SERVE) as process:
        line_with(process, "serving")
        (server,) = processes(f"--grpc-port={port}")
        os.kill(server, signal.SIGKILL)
        assert "Error: Triton has ended with status -9; its log ends:" in process.stdout.read()
    assert process.returncode == 1


def lose_the_network(folder: Path) -> None:
    (folder / "1" / "model.onnx").unlink()


def want_another_backend(folder: Path) -> None:
    config = (folder / "config.pbtxt").read_text()
    (folder / "config.pbtxt").write_text(config.replace('backend: "python"', 'backend: "onnxruntime"'))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lose_the_network, "Internal: .*Could not open the file"),
        (want_another_backend, "Invalid argument: unable to find backend library for backend 'onnxruntime'"),
    ],
)
def test_a_server_that_cannot_start_says_why(repository: Path, tmp_path: Path, damage: Any, reason: str) -> None:
    damage(Path(shutil.copytree(repository / TEXT, tmp_path / TEXT)))
    server = TritonServer(tmp_path)
    message = rf"(?s)^Triton has ended with status 1:\nfailed to load '{TEXT}' version 1: {reason}"
    with pytest.raises(Unavailable, match=message), server:
        pass
    assert not Path(server.log).parent.exists()


class Witnessed(TritonServer):
    """Its stubs leave their exit status in a file."""

    def _backends(self) -> Path:
        folder = super()._backends()
        stub = folder / "python" / "triton_python_backend_stub"
        original, self.statuses = stub.readlink(), self._folder / "statuses"
        stub.unlink()
        stub.write_text(f'#!/bin/sh\n"{original}" "$@"\necho $? >>"{self.statuses}"\n')
        stub.chmod(0o755)
        return folder


def test_no_signal_ends_a_stub(repository: Path) -> None:
    with Witnessed(repository) as server:
        server.process.terminate()
        assert server.process.wait(20) == 0
        statuses = [int(status) for status in server.statuses.read_text().split()]
    assert statuses[-1] == 0
    assert max(statuses) < 128, "139 is a segmentation fault"


def test_a_port_that_is_taken_is_named(repository: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with beside(repository, port, WORK) as process:
            assert f"127.0.0.1:{port}: Address already in use; DARKROOM_TRITON_URL" in process.stdout.read()
    assert process.returncode == 1


def test_make_run_serves_pictures_and_stops_without_a_trace(port: int) -> None:
    page = free_port()
    with subprocess.Popen(
        ["make", "--old-file=install", "run", "ENGINE=triton"], cwd=ROOT, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=os.environ | {"DARKROOM_TRITON_URL": f"127.0.0.1:{port}", "DARKROOM_PORT": str(page)},
    ) as process:  # fmt: skip
        assert "(triton, " in line_with(process, "Darkroom serves postcard")
        body = {"prompt": "a red sphere", "seed": 7, "num_inference_steps": 2}
        reply = httpx.post(f"http://127.0.0.1:{page}/v1/images/generations", json=body, timeout=60)
        assert reply.status_code == 200
        process.terminate()
        process.stdout.read()
    assert process.returncode == -signal.SIGTERM
