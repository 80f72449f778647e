"""The load generator is honest, and the whole benchmark runs in small; what is measured is not asserted."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.serving.__main__ import main
from benchmarks.serving.client import GONE, Client, Reply, post
from benchmarks.serving.load import Kind, Run, Sample, arrivals, closed_loop, mix, open_loop
from benchmarks.serving.report import SCALES, Goal, attainment, merged

KINDS = [Kind("one", {"preset": "fast"}), Kind("two", {"preset": "balanced"})]
Answer = Callable[[asyncio.StreamWriter, dict[str, Any]], Awaitable[None]]


class Stub:
    """A server of another library's making (asyncio streams) that writes down what came, and answers as told."""

    def __init__(self, answer: Answer) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.writers: list[asyncio.StreamWriter] = []
        self.answer = answer

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        with suppress(ConnectionError):
            while head := await reader.read(1) and await reader.readuntil(b"\r\n\r\n"):
                length = re.search(rb"content-length: (\d+)", head)
                self.bodies.append(json.loads(await reader.readexactly(int(length[1]))) if length else {})
                await self.answer(writer, self.bodies[-1])


@asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[tuple[Stub, Client]]:
    stub = Stub(answer)
    async with await asyncio.start_server(stub, "127.0.0.1", 0) as server:
        async with Client("http://{}:{}".format(*server.sockets[0].getsockname())) as client:
            yield stub, client
        server.close()
        for writer in stub.writers:
            writer.transport.abort()
        await asyncio.sleep(0.01)


async def at_once(writer: asyncio.StreamWriter, _: dict[str, Any]) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")


async def never(writer: asyncio.StreamWriter, _: dict[str, Any]) -> None:
    await writer.wait_closed()


async def hang_up(writer: asyncio.StreamWriter, _: dict[str, Any]) -> None:
    writer.close()


async def in_pieces(writer: asyncio.StreamWriter, _: dict[str, Any]) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    for piece in (
        b": 0 ahead\n\n",
        b"event: image_generation.partial_image\n\n",
        b"event: image_generation.completed\n\n",
    ):
        writer.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        await writer.drain()
        await asyncio.sleep(0.01)
    writer.write(b"0\r\n\r\n")


def ask(answer: Answer, *, times: int = 1, patience: float | None = None) -> list[Reply]:
    async def run() -> list[Reply]:
        async with serving(answer) as (_, client):
            return [await client.ask(post("/", {}), patience) for _ in range(times)]

    return asyncio.run(run())


def test_answers_are_read_whole_and_connections_kept() -> None:
    assert [(reply.status, reply.body) for reply in ask(at_once, times=3)] == [(200, b"ok")] * 3
    (streamed,) = ask(in_pieces)
    assert streamed.body.startswith(b": 0 ahead")
    assert streamed.body.endswith(b"completed\n\n")
    assert streamed.first is not None
    assert streamed.first < streamed.end


def test_a_connection_that_the_server_closed_is_not_used_again() -> None:
    async def run() -> list[int]:
        async with serving(at_once) as (stub, client):
            first = await client.ask(post("/", {}))
            stub.writers[0].close()
            await asyncio.sleep(0.05)
            return [first.status, (await client.ask(post("/", {}), 5.0)).status]

    assert asyncio.run(run()) == [200, 200]


@pytest.mark.parametrize(("answer", "patience"), [(hang_up, None), (never, 0.05)])
def test_who_is_not_answered_says_so(answer: Answer, patience: float | None) -> None:
    assert [reply.status for reply in ask(answer, patience=patience)] == [GONE]


@pytest.mark.parametrize("answer", [at_once, never])
def test_arrivals_of_the_open_loop_wait_for_no_reply(answer: Answer) -> None:
    """Whether answers come at once or never: the same requests at the same times, all sent."""
    times = arrivals(60, 0.5, seed=3)

    async def run() -> tuple[Stub, Run]:
        async with serving(answer) as (stub, client):
            requests = mix(KINDS, seed=1, previews=False, deadlines={"one": 0.2, "two": 0.3})
            return stub, await open_loop(client, requests, times, 0.5)

    stub, load = asyncio.run(run())
    assert [sample.due for sample in load.samples] == times
    assert all(sample.due <= sample.sent < sample.end for sample in load.samples)
    expected = list(islice(mix(KINDS, seed=1, previews=False), len(times)))
    assert sorted(body["seed"] for body in stub.bodies) == [request.number for request in expected]
    assert {sample.status for sample in load.samples} == {200 if answer is at_once else GONE}
    assert load.goodput == pytest.approx(len(times) / load.seconds if answer is at_once else 0)


def test_arrivals_are_a_poisson_process() -> None:
    """Counts of disjoint seconds have equal mean and variance; the gaps are exponential (their deviation, too)."""
    counts = [len(arrivals(20, 1, seed)) for seed in range(2000)]
    assert np.mean(counts) == pytest.approx(20, abs=5 * np.sqrt(20 / 2000))
    assert np.var(counts) == pytest.approx(20, rel=0.2)
    times = arrivals(50, 200, seed=0)
    gaps = np.diff(times)
    assert times == sorted(times)
    assert np.std(gaps) == pytest.approx(np.mean(gaps), rel=0.05)


def test_callers_of_the_closed_loop_ask_one_at_a_time() -> None:
    async def run() -> tuple[Stub, Run]:
        async with serving(at_once) as (stub, client):
            return stub, await closed_loop(client, mix(KINDS, seed=0, previews=True), 3, 0.1)

    stub, load = asyncio.run(run())
    assert len(load.samples) == len(stub.bodies)
    edges = sorted([(s.sent, 1) for s in load.samples] + [(s.end, -1) for s in load.samples])
    assert max(np.cumsum([step for _, step in edges])) == 3
    kinds = [sample.kind for sample in load.samples]
    assert abs(kinds.count("one") - kinds.count("two")) <= 4
    assert {body.get("stream") for body in stub.bodies} == {None, True}


def test_figures_follow_from_the_samples() -> None:
    samples = [Sample("one", status, 1.0, 1.0, 1.0 + taken, deadline=2.0) for status, taken in
               [(200, 1.0), (200, 2.0), (200, 4.0), (504, 0.1)]]  # fmt: skip
    run = merged([Run(samples[:2], 3.0, 0.1), Run(samples[2:], 5.0, 0.1)])
    assert (run.rate, run.goodput, run.cpu) == (3 / 8, 2 / 8, 0.2)
    assert [attainment(samples, {"one": 1.0}, scale) for scale in (1.0, 2.0, 4.0)] == [0.25, 0.5, 0.75]
    assert [Goal("", 1.0, wanted, least).met for wanted in (0.9, 1.1) for least in (True, False)] == [
        True, False, False, True
    ]  # fmt: skip


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The whole benchmark in small: its output, its folder."""
    folder = tmp_path_factory.mktemp("serving")
    result = CliRunner().invoke(main, ["--smoke", "--folder", str(folder)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output, folder


def test_every_goal_is_printed_beside_its_measurement(smoke: tuple[str, Path]) -> None:
    output, folder = smoke
    goals = json.loads((folder / "goals.json").read_text())
    assert [(goal["wanted"], goal["least"]) for goal in goals] == [
        (2, False), (400, False), (0.9, True), (0.95, True), (300, True), (2, False), (50, False)
    ]  # fmt: skip
    for goal in goals:
        assert goal["met"] == (
            goal["measured"] >= goal["wanted"] if goal["least"] else goal["measured"] <= goal["wanted"]
        )
        assert re.search(
            rf"^{re.escape(goal['name'])}: \S+, goal [<>]= {goal['wanted']:g}: (met|MISSED)$", output, re.M
        )
    assert 0 < (folder / "serving.png").stat().st_size < 150_000


def test_parts_of_a_request_are_within_what_its_caller_waits(smoke: tuple[str, Path]) -> None:
    rows = re.search(r"^\| a lone request, ms .*\n\|[-|]+\n((?:\|.*\n)+)", smoke[0], re.M)
    assert rows
    for row in rows[1].splitlines():
        _, queue, text, denoise, decode, encode, rest = map(float, row.split("|")[2:-1])
        assert min(queue, text, denoise, decode, encode, rest) > 0, row


def test_samples_of_both_systems_add_up(smoke: tuple[str, Path]) -> None:
    systems = json.loads((smoke[1] / "runs.json").read_text())
    assert [system["name"] for system in systems] == ["darkroom", "diffusers in threads"]
    for system in systems:
        assert [*system["steady"]] == ["0.5", "0.8"]
        assert [*system["overloaded"]] == ["0.5", "1.0", "2.0", "5.0"]
        opened = [*system["steady"].values(), *system["overloaded"].values()]
        runs = [*system["closed"], *chain.from_iterable(opened)]
        samples = [Sample(**sample) for run in runs for sample in run["samples"]]
        assert {sample.kind for sample in samples} <= system["unloaded"].keys()
        assert {sample.status for sample in samples} <= {200, 429, 504, GONE}
        assert all(sample.due <= sample.sent <= sample.end for sample in samples)
        shares = [attainment(samples, system["unloaded"], scale) for scale in SCALES]
        assert all(low <= high for low, high in pairwise(shares))
    output = smoke[0]
    for row in re.findall(r"^\| (?:darkroom|diffusers in threads), [\d.]+ x \| (.*) \|$", output, re.M):
        total, *parts = map(int, row.split(" | ")[:-1])
        assert total == sum(parts)
