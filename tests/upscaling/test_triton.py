"""Enlarging on the real Triton: a stub killed amid it changes no byte, whoever leaves amid it leaves nothing behind."""

import io
import os
import shutil
import signal
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from export.triton_config import configure
from export.triton_server import TritonServer
from service.engines.contract import load_descriptions
from service.engines.triton import TritonEngine
from tests.api.harness import Running, eventually, serving
from tests.e2e.servers import stubs
from tests.engines.tiny import NAME

pytestmark = pytest.mark.triton

UPSAMPLER = f"{NAME}_upsampler"
QUERY = f"/v1/images/upscale?factor=4&method=network&seed=7&sigmas=2,0.6,0.2,0.05,0&model={NAME}"
HEADERS = {"content-type": "image/png", "accept": "image/png", "x-request-id": "large"}
AMID = 60  # calls of the network; the first rows are told after fewer, the last after about 150


class Watched(TritonEngine):
    """Counts the calls of the upsampler, lets something happen at one, remembers weakly the keys and values."""

    def __init__(self, repository: Path, server: TritonServer) -> None:
        super().__init__(repository, [server.url])
        self.calls = 0
        self.amid: Callable[[], None] = lambda: None
        self._caches: list[weakref.ref[Any]] = []

    def upsample(self, *arguments: Any) -> Any:
        self.calls += 1
        self._caches += [weakref.ref(it) for row in arguments[3] for it in row.caches if it is not None]
        if self.calls == AMID:
            self.amid()
        return super().upsample(*arguments)

    def kept(self) -> int:
        """Keys and values that are still in memory."""
        return sum(cache() is not None for cache in self._caches)


@pytest.fixture(scope="module")
def entries(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository as Triton wants it."""
    folder = tmp_path_factory.mktemp("triton") / "repository"
    shutil.copytree(repository, folder)
    model, _ = load_descriptions(folder)[NAME]
    for role in model.networks.keys() - {"upsampler"}:
        configure(folder / model.networks[role].entry, model, role)
    return folder


@pytest.fixture(scope="module")
def server(entries: Path) -> Iterator[TritonServer]:
    with TritonServer(entries) as running:
        with serving():
            pass  # the first one leaves a pipe to the process
        yield running


@pytest.fixture
def watched(entries: Path, server: TritonServer) -> Iterator[tuple[Watched, Running]]:
    """A service in front of the server, which leaves no thread and no open file."""

    def held() -> tuple[int, int]:
        return threading.active_count(), len(os.listdir("/proc/self/fd"))

    before, engine = held(), Watched(entries, server)
    with serving(engine, default_model=NAME) as running:
        yield engine, running
    eventually(lambda: all(now <= earlier for now, earlier in zip(held(), before, strict=True)))


@pytest.fixture(scope="module")
def picture() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 32, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def test_kill_9_of_the_stub_amid_an_enlargement_changes_no_byte(
    watched: tuple[Watched, Running], server: TritonServer, picture: bytes
) -> None:
    engine, running = watched
    stub = stubs(server)[UPSAMPLER]

    def die() -> None:
        """With the call in its hands."""
        os.kill(stub, signal.SIGSTOP)
        threading.Timer(0.3, os.kill, (stub, signal.SIGKILL)).start()

    def file() -> str:
        engine.calls = 0
        answer = running.client.post(QUERY, content=picture, headers=HEADERS)
        assert answer.status_code == 200, answer.text
        assert engine.calls > 2 * AMID
        return sha256(answer.content).hexdigest()

    undisturbed = file()
    engine.amid = die
    assert file() == undisturbed
    assert stubs(server)[UPSAMPLER] != stub


@pytest.mark.parametrize("deleted", [False, True], ids=["left", "deleted"])
def test_who_leaves_amid_a_call_frees_everything_at_once(
    watched: tuple[Watched, Running], server: TritonServer, picture: bytes, deleted: bool
) -> None:
    engine, running = watched
    stub, stuck, before = stubs(server)[UPSAMPLER], threading.Event(), temporary_files()

    def stick() -> None:
        os.kill(stub, signal.SIGSTOP)
        stuck.set()

    engine.amid = stick
    try:
        with running.client.stream("POST", QUERY, content=picture, headers=HEADERS) as answer:
            pieces = answer.iter_raw()
            assert next(pieces).startswith(b"\x89PNG")
            assert stuck.wait(30)
            assert (engine.kept() > 0, temporary_files()) == (True, before + 1)
            if deleted:
                assert httpx.delete(f"{running.url}/v1/images/generations/large").status_code == 200
                with pytest.raises(httpx.RemoteProtocolError):
                    list(pieces)
        eventually(lambda: running.parts.runner.idle)  # although that call is never answered
    finally:
        os.kill(stub, signal.SIGCONT)
    assert engine.calls == AMID
    eventually(lambda: (engine.kept(), temporary_files()) == (0, before))
    assert running.parts.runner._admission.load() == 0
    assert running.value("darkroom_cancellations_total", stage="upscale") == 1


def temporary_files() -> int:
    """Those without a name that are open: where the file waits for its client."""
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            found.append(os.readlink(descriptor))
    return sum(name.startswith(tempfile.gettempdir()) and name.endswith("(deleted)") for name in found)
