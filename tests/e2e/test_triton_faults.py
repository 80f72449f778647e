"""Triton as it fails in production: nothing hangs, nothing is lost, what cannot be served is a clear sentence."""

import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest
from google.protobuf import json_format, text_format
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.model_config_pb2 import ModelConfig
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from export.triton_config import configure
from export.triton_server import TritonServer, free_port
from service.engines import endpoints, shelf
from service.engines.contract import DESCRIPTION, Array, Conditioning, Ticket
from service.engines.embedded import EmbeddedEngine
from service.engines.runtimes import OpenVino
from service.engines.triton import TritonEngine
from service.errors import Cancelled, DeadlineExceeded, Unavailable
from tests.api.harness import eventually
from tests.e2e.servers import Cramped, Wire, stubs
from tests.engines.tiny import NAME, write_repository

pytestmark = pytest.mark.triton

UNET = f"{NAME}_unet"
CALLS = 24


@pytest.fixture(autouse=True)
def all_conditioning_is_worth_sharing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny model's, too."""
    monkeypatch.setattr(shelf, "SMALLEST", 1)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    model = write_repository(folder)
    for role, network in model.networks.items():
        configure(folder / network.entry, model, role)
    return folder


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[TritonServer]:
    with TritonServer(repository) as running:
        yield running


@pytest.fixture(scope="module")
def calm(repository: Path) -> Iterator[TritonServer]:
    """A server on which no call is ever abandoned: what it maps is what the test made it map."""
    with TritonServer(repository) as running:
        yield running


@pytest.fixture(autouse=True)
def nothing_leaks(server: TritonServer) -> Iterator[None]:
    """No file, no thread, no shared memory outlives the engines of a test.

    Triton itself keeps 1 descriptor, 36 threads, 0.8 MB and a region of shared memory (1 MB) of every stub that was
    killed, and nothing of one that was unloaded alive (2.51, measured over six of each).
    """

    def held() -> tuple[int, int]:
        return threading.active_count(), len(os.listdir("/proc/self/fd"))

    before = held()
    yield
    eventually(lambda: all(now <= earlier for now, earlier in zip(held(), before, strict=True)))
    eventually(lambda: not regions(server))
    eventually(lambda: not list(shelf.SHARED_MEMORY.glob("darkroom.*")))  # another worker's tests may hold some


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of what is said in the end."""
    monkeypatch.setattr(endpoints, "PATIENCE", 0.5)


@pytest.fixture
def engine(repository: Path, server: TritonServer) -> Iterator[TritonEngine]:
    with connected(repository, server.url) as made:
        yield made


@contextmanager
def connected(repository: Path, *urls: str) -> Iterator[TritonEngine]:
    made = TritonEngine(repository, urls)
    yield made
    made.close()


@pytest.fixture(scope="module")
def expected(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Array]:
    """What every call must give, from the embedded engine, one at a time."""
    embedded = EmbeddedEngine(repository, OpenVino("auto", 1, tmp_path_factory.mktemp("cache")))
    row = embedded.encode_text(NAME, embedded.tokenize(NAME, "a"), Ticket())
    outputs = [embedded.predict(NAME, "unet", *work(index, row), Ticket()) for index in range(CALLS)]
    embedded.close()
    return outputs


def work(index: int, row: Conditioning) -> tuple[Array, Array, list[Conditioning]]:
    """One call of two rows; every third has another size."""
    rng = np.random.default_rng(index)
    width = 16 if index % 3 == 2 else 8
    return rng.standard_normal((2, 4, 8, width)), rng.uniform(0, 999, 2), [row, row]


def predict(engine: TritonEngine, index: int = 0, ticket: Ticket | None = None) -> Array:
    ticket = ticket or Ticket()
    row = engine.encode_text(NAME, engine.tokenize(NAME, "a"), ticket)
    return engine.predict(NAME, "unet", *work(index, row), ticket)


def all_calls(engine: TritonEngine, expected: list[Array], meanwhile: Callable[[], object]) -> None:
    """Every call from eight threads, several times; ``meanwhile`` happens when a third of them are done."""
    done = threading.Semaphore(0)

    def call(index: int) -> Array:
        output = predict(engine, index)
        done.release()
        return output

    with ThreadPoolExecutor(8) as threads:
        futures = [threads.submit(call, index % CALLS) for index in range(6 * CALLS)]
        for _ in range(2 * CALLS):
            assert done.acquire(timeout=30)
        meanwhile()
        for index, future in enumerate(futures):
            np.testing.assert_array_equal(future.result(), expected[index % CALLS])


@contextmanager
def frozen(server: TritonServer) -> Iterator[None]:
    """The server's port swallows everything."""
    os.kill(server.process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.process.pid, signal.SIGCONT)


def test_concurrent_calls_have_the_bytes_they_have_alone(engine: TritonEngine, expected: list[Array]) -> None:
    engine.health()
    assert engine.precision == OpenVino("auto", 1, Path()).precision
    all_calls(engine, expected, lambda: None)


def test_kill_9_of_a_stub_loses_nothing(engine: TritonEngine, server: TritonServer, expected: list[Array]) -> None:
    before = stubs(server)[UNET]
    all_calls(engine, expected, lambda: os.kill(before, signal.SIGKILL))
    assert stubs(server)[UNET] != before


@pytest.mark.parametrize("fault", [Wire.silent, Wire.cut])
def test_a_network_that_is_away_for_2_seconds_loses_nothing(
    repository: Path, server: TritonServer, expected: list[Array], fault: Callable[[Wire], AbstractContextManager[None]]
) -> None:
    wire = Wire(server.grpc_port)

    def happens() -> None:
        with fault(wire):
            time.sleep(2)

    with connected(repository, wire.url) as engine:
        all_calls(engine, expected, happens)
    wire.close()


def test_a_server_that_has_fallen_silent_is_left_for_another(
    repository: Path, server: TritonServer, expected: list[Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    quicker = [(name, 500 if "keepalive" in name or "ping" in name else value) for name, value in endpoints.CHANNEL]
    monkeypatch.setattr(endpoints, "CHANNEL", quicker)
    wire = Wire(server.grpc_port)
    with connected(repository, wire.url, server.url) as engine, wire.silent():
        np.testing.assert_array_equal(predict(engine), expected[0])
    wire.close()


def test_who_waits_for_a_silent_server_may_leave(engine: TritonEngine, server: TritonServer) -> None:
    predict(engine)
    leaver = Ticket()
    with ThreadPoolExecutor(1) as thread, frozen(server):
        future: Future[Array] = thread.submit(predict, engine, ticket=leaver)
        time.sleep(0.2)
        assert not future.done()
        leaver.cancelled.set()
        assert isinstance(future.exception(5), Cancelled)
        with pytest.raises(DeadlineExceeded):
            predict(engine, ticket=Ticket(deadline=time.monotonic() + 0.3))
    predict(engine)


def test_sigterm_of_one_of_two_loses_nothing(repository: Path, server: TritonServer, expected: list[Array]) -> None:
    with TritonServer(repository) as second, connected(repository, second.url, server.url) as engine:
        all_calls(engine, expected, second.process.terminate)
        assert second.process.wait(20) == 0
        predict(engine)


@pytest.mark.usefixtures("impatient")
def test_a_model_that_was_unloaded_is_named(engine: TritonEngine, server: TritonServer) -> None:
    with grpc.insecure_channel(server.url) as channel:
        stub = GRPCInferenceServiceStub(channel)
        stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name=UNET))
        with pytest.raises(Unavailable, match=f"^{UNET} is not loaded on Triton at {server.url}$"):
            predict(engine)
        stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name=UNET))
    predict(engine)


def test_conditioning_is_mapped_once_and_leaves_nothing(
    repository: Path, calm: TritonServer, expected: list[Array]
) -> None:
    with connected(repository, calm.url) as engine:
        for index in (0, 1, 3, 4):
            np.testing.assert_array_equal(predict(engine, index), expected[index])
        (region,) = regions(calm)
        assert region.byte_size == 2 * 24 * 32 * 4
        assert not list(shelf.SHARED_MEMORY.glob("darkroom.*"))
    eventually(lambda: not regions(calm))


def test_conditioning_made_for_one_step_is_not_mistaken_for_another(
    repository: Path, calm: TritonServer, expected: list[Array]
) -> None:
    found = []
    with connected(repository, calm.url) as engine:
        row = engine.encode_text(NAME, engine.tokenize(NAME, "a"), Ticket())
        (name, array), *_ = row.arrays.items()
        for factor in (2.0, 3.0, 1.0):
            x, t, _ = work(0, row)
            transformed = Conditioning({name: factor * array}, digest="")
            found.append(engine.predict(NAME, "unet", x, t, [transformed] * 2, Ticket()))
        assert not regions(calm)
    np.testing.assert_array_equal(found[2], expected[0])
    assert not np.array_equal(found[0], found[1])


def test_mapped_conditioning_is_bounded(repository: Path, calm: TritonServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelf, "CAPACITY", 20_000)  # three of 6 KB
    with connected(repository, calm.url) as engine:
        for prompt in "abcdefgh":
            row = engine.encode_text(NAME, engine.tokenize(NAME, prompt), Ticket())
            outputs = [engine.predict(NAME, "unet", *work(0, row), Ticket()) for _ in range(3)]
            np.testing.assert_array_equal(outputs[0], outputs[1])
            np.testing.assert_array_equal(outputs[0], outputs[2])
        eventually(lambda: len(regions(calm)) == 3)
    eventually(lambda: not regions(calm))


def test_a_region_that_an_abandoned_call_reads_is_unmapped_after_it(repository: Path, server: TritonServer) -> None:
    stub, leaver = stubs(server)[UNET], Ticket()
    with connected(repository, server.url) as engine, ThreadPoolExecutor(1) as thread:
        for _ in range(2):
            predict(engine)
        os.kill(stub, signal.SIGSTOP)
        future: Future[Array] = thread.submit(predict, engine, ticket=leaver)
        time.sleep(0.2)
        leaver.cancelled.set()
        assert isinstance(future.exception(5), Cancelled)
        threading.Timer(0.5, os.kill, (stub, signal.SIGCONT)).start()
    assert not regions(server)


def test_a_call_abandoned_in_the_queue_is_never_run(engine: TritonEngine, server: TritonServer) -> None:
    predict(engine)
    stub, leaver, before = stubs(server)[UNET], Ticket(), rows_run(server)
    with ThreadPoolExecutor(2) as threads:
        os.kill(stub, signal.SIGSTOP)
        first = threads.submit(predict, engine)
        time.sleep(0.1)
        behind = threads.submit(predict, engine, ticket=leaver)
        time.sleep(0.1)
        leaver.cancelled.set()
        assert isinstance(behind.exception(5), Cancelled)
        time.sleep(0.1)
        os.kill(stub, signal.SIGCONT)
        first.result(30)
    predict(engine)
    assert rows_run(server) == before + 4


def rows_run(server: TritonServer) -> int:
    """Rows that the unet has computed so far."""
    text = httpx.get(f"http://127.0.0.1:{server.metrics_port}/metrics").text
    return sum(map(int, re.findall(rf'darkroom_execution_rows_sum{{model="{UNET}"}} (\d+)', text)))


def test_no_room_for_conditioning_in_our_shared_memory(
    engine: TritonEngine, expected: list[Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shelf, "SHARED_MEMORY", Path("/proc"))  # refuses every file, as a full one does
    for index in (0, 1, 3, 4):
        np.testing.assert_array_equal(predict(engine, index), expected[index])


def test_a_server_without_shared_memory(repository: Path, expected: list[Array]) -> None:
    with Cramped(repository, megabytes=4) as small, connected(repository, small.url) as engine:
        for index in (0, 1, 3, 4):  # it cannot see our files: everything travels by value
            np.testing.assert_array_equal(predict(engine, index), expected[index])
        assert not regions(small)
        row = engine.encode_text(NAME, engine.tokenize(NAME, "a"), Ticket())
        large = np.ones((8, 4, 128, 128))
        with pytest.raises(Unavailable, match=f"^/dev/shm of Triton at {small.url} is too small for {UNET}$"):
            engine.predict(NAME, "unet", large, np.ones(8), [row] * 8, Ticket())
        np.testing.assert_array_equal(predict(engine), expected[0])


@pytest.mark.usefixtures("impatient")
def test_another_export_is_refused(repository: Path, server: TritonServer, tmp_path: Path) -> None:
    shutil.copytree(repository, tmp_path / "other")
    file = tmp_path / "other" / UNET / DESCRIPTION / "model.json"
    file.write_text(re.sub(r'"sha256":"\w+"', f'"sha256":"{"0" * 64}"', file.read_text()))
    with connected(tmp_path / "other", server.url) as engine:
        assert engine.precision == "unknown"
        with pytest.raises(Unavailable, match=r"has the digest \w{16}, in the description of tiny it has \w{16}: both"):
            engine.health()


@pytest.mark.usefixtures("impatient")
def test_a_server_that_comes_goes_and_comes_again(repository: Path, expected: list[Array]) -> None:
    port = free_port()
    with connected(repository, f"127.0.0.1:{port}") as engine:
        with pytest.raises(Unavailable, match="does not answer"):
            engine.health()
        for _ in range(2):
            with TritonServer(repository, grpc_port=port):
                for index in (0, 1, 3):
                    np.testing.assert_array_equal(predict(engine, index), expected[index])


@pytest.fixture(scope="module")
def own() -> str:
    """The precision of this CPU."""
    return OpenVino("auto", 1, Path()).precision


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("parameter", ["digest", "precision"])
def test_a_server_that_changes_while_nobody_calls(
    repository: Path, server: TritonServer, own: str, parameter: str
) -> None:
    """No call fails, so it is the new connection that makes us look again."""
    other = {"fp32": "bf16", "bf16": "fp32"}[own]
    value, message = {
        "digest": ("0" * 16, "tiny_unet on Triton at .* has the digest 0{16}, in the description of tiny it has"),
        "precision": (other, rf"Triton at .* computes tiny in bf16\+fp32, but its recipes say {own} since"),
    }[parameter]
    wire = Wire(server.grpc_port)
    with connected(repository, wire.url) as engine:
        predict(engine)
        with reloaded(server, repository, parameter, value):
            with wire.cut():
                pass
            eventually(lambda: re.match(message, refusal(engine)))
        predict(engine)
    wire.close()


def refusal(engine: TritonEngine) -> str:
    try:
        predict(engine)
    except Unavailable as error:
        return error.message
    return ""


@contextmanager
def reloaded(server: TritonServer, repository: Path, parameter: str, value: str) -> Iterator[None]:
    """The unet is loaded with another parameter in its configuration."""
    config = text_format.Parse((repository / UNET / "config.pbtxt").read_text(), ModelConfig())
    config.parameters[parameter].string_value = value
    unload, load = pb.RepositoryModelUnloadRequest(model_name=UNET), pb.RepositoryModelLoadRequest(model_name=UNET)
    with grpc.insecure_channel(server.url) as channel:
        stub = GRPCInferenceServiceStub(channel)
        changed = pb.RepositoryModelLoadRequest(model_name=UNET)
        changed.parameters["config"].string_param = json_format.MessageToJson(config, preserving_proto_field_name=True)
        for request in (changed, load):
            stub.RepositoryModelUnload(unload)
            stub.RepositoryModelLoad(request)
            if request is changed:
                yield


def regions(server: TritonServer) -> list[pb.SystemSharedMemoryStatusResponse.RegionStatus]:
    with grpc.insecure_channel(server.url) as channel:
        status = GRPCInferenceServiceStub(channel).SystemSharedMemoryStatus(pb.SystemSharedMemoryStatusRequest())
    return list(status.regions.values())
