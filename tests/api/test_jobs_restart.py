"""What was accepted is finished by the next process: after kill -9, after a drain that was too short, once only."""

import base64
import os
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from service import background
from service.background import TRIES
from service.engines.gaussian import GaussianEngine
from service.errors import EngineFailure
from service.jobs import DATABASE
from tests.api.harness import Held, Running, eventually, serving
from tests.api.jobs import ASYNC, BODY, accepted, asked, at, ended, files, happened, told
from tests.api.test_overload import SERVE

LONG: dict[str, Any] = {"prompt": "a café 🚤", "size": "256x256", "sampler": "heun", "schedule": "karras"}
BODIES = [
    {**LONG, "seed": 1, "num_inference_steps": 4},
    {**LONG, "seed": 2, "num_inference_steps": 16, "n": 3, "partial_images": 1},
    {**LONG, "seed": 5, "num_inference_steps": 16, "output_format": "webp"},
    {**LONG, "seed": 6, "num_inference_steps": 64, "n": 2},
]


class Process:
    """The service as an operator runs it."""

    def __init__(self, folder: Path) -> None:
        settings = {
            "JOBS_DIR": folder / "jobs",
            "CACHE_DIR": folder / "cache",
            "MAX_CONCURRENCY": 2,
            "DRAIN_SECONDS": 0,
        }
        environment = os.environ | {f"DARKROOM_{name}": str(value) for name, value in settings.items()}
        self.process = subprocess.Popen(
            SERVE, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self.process.stdout
        self.client = httpx.Client(base_url=self.process.stdout.readline().split()[-1], timeout=30)

    def ask(self, job: dict[str, Any]) -> dict[str, Any]:
        answer = self.client.get(at(job))
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def end(self, sent: signal.Signals) -> int:
        self.process.send_signal(sent)
        status = self.process.wait(30)
        self.client.close()
        assert self.process.stdout
        self.process.stdout.close()
        return status


@contextmanager
def processes(folder: Path) -> Iterator[Any]:
    """A function that starts one; none is left behind."""
    started: list[Process] = []

    def start() -> Process:
        started.append(Process(folder))
        return started[-1]

    try:
        yield start
    finally:
        for each in started:
            each.process.kill()
            each.process.wait(30)


def test_kill_9_amid_jobs_loses_none_and_changes_no_byte(tmp_path: Path) -> None:
    with processes(tmp_path) as start:
        first = start()
        jobs = [first.client.post("/v1/images/generations", json=body, headers=ASYNC).json() for body in BODIES]
        eventually(lambda: first.ask(jobs[1])["pictures"], 60)  # some done, some in progress, some waiting
        before = [first.ask(job) for job in jobs]
        assert {job["status"] for job in before} >= {"succeeded", "in_progress"}
        early = (tmp_path / "jobs" / f"{jobs[0]['id']}-0.png").stat().st_mtime_ns
        assert first.end(signal.SIGKILL) == -signal.SIGKILL

        second = start()  # and once more, while it is at it
        eventually(lambda: second.ask(jobs[1])["status"] != "queued", 60)
        assert second.end(signal.SIGKILL) == -signal.SIGKILL

        third = start()
        eventually(lambda: {third.ask(job)["status"] for job in jobs} == {"succeeded"}, 200)
        over = [third.ask(job) for job in jobs]
        assert [job["recipes"] for job in over] == [job["recipes"] for job in jobs]
        made = [[third.client.get(picture["url"]).content for picture in job["pictures"]] for job in over]
        sync = [third.client.post("/v1/images/generations", json=unwatched(body)).json()["data"] for body in BODIES]
        assert made == [[base64.b64decode(one["b64_json"]) for one in data] for data in sync]
        kept = [file.name for file in (tmp_path / "jobs").glob("job-*")]
        assert sorted(kept) == sorted(name(job, picture) for job in over for picture in job["pictures"])
        assert (tmp_path / "jobs" / f"{jobs[0]['id']}-0.png").stat().st_mtime_ns == early
        assert third.end(signal.SIGTERM) == 0


def unwatched(body: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name != "partial_images"}


def name(job: dict[str, Any], picture: dict[str, Any]) -> str:
    return f"{job['id']}-{picture['number']}.{job['output_format']}"


def test_a_drain_interrupts_what_is_long_and_the_next_start_finishes_it(tmp_path: Path) -> None:
    engine = Held()
    with serving(engine, jobs_dir=tmp_path, drain_seconds=0.2) as running:
        job = accepted(running)
        eventually(lambda: engine.calls)
        with running.client.stream("GET", f"{at(job)}/events") as answer:
            lines = happened(answer.iter_lines())
            assert [next(lines)[1]["type"] for _ in range(2)] == ["job.queued", "job.in_progress"]
            running.server.handle_exit(signal.SIGTERM, None)
            eventually(lambda: running.server.should_exit)
            engine.go.set()
            assert [data["type"] for number, data in lines if number] == ["job.queued"]
    assert len(engine.calls) == 1
    with (
        serving(jobs_dir=tmp_path) as running,
        running.client.stream("GET", f"{at(job)}/events", headers={"last-event-id": "2"}) as answer,
    ):
        rest = [data["type"] for number, data in happened(answer.iter_lines()) if number]
        assert rest == ["job.queued", "job.in_progress", "job.picture", "job.succeeded"]


@contextmanager
def interrupted(engine: Held, **settings: Any) -> Iterator[Running]:
    """A service that stops before what it accepted is done."""
    with serving(engine, **settings) as running:
        yield running
        running.parts.runner.drain()
        running.parts.runner.cancel()
        engine.go.set()


@contextmanager
def database(folder: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(folder / DATABASE)
    with connection:
        yield connection
    connection.close()


class HoldsTheSecond(Held):
    """Makes one picture of eight calls."""

    def predict(self, *args: Any) -> Any:
        if len(self.calls) == 8:
            return super().predict(*args)
        self.calls.append(args[-1])
        return GaussianEngine.predict(self, *args)


def test_only_what_is_missing_is_made_again(tmp_path: Path) -> None:
    body = {**BODY, "n": 2}
    with interrupted(HoldsTheSecond(), jobs_dir=tmp_path, max_concurrency=1) as running:
        job = accepted(running, body)
        eventually(lambda: len(asked(running, job)["pictures"]) == 1)
    engine = Held()
    engine.go.set()
    with serving(engine, jobs_dir=tmp_path) as running:
        over = ended(running, job)
        assert (over["status"], over["steps_done"], len(engine.calls)) == ("succeeded", 16, 8)
        made = running.post(body).json()["data"]
        assert files(running, over) == [base64.b64decode(one["b64_json"]) for one in made]


def in_progress(folder: Path) -> dict[str, Any]:
    """A job that a service stopped amid."""
    engine = Held()
    with interrupted(engine, jobs_dir=folder) as running:
        job = accepted(running)
        eventually(lambda: engine.calls)
    return job


@pytest.mark.parametrize(("crashes", "status"), [(TRIES - 2, "succeeded"), (TRIES - 1, "failed")])
def test_a_job_that_kills_the_service_again_and_again_is_given_up(tmp_path: Path, crashes: int, status: str) -> None:
    job = in_progress(tmp_path)
    with database(tmp_path) as connection:
        assert connection.execute("SELECT status, crashes FROM jobs").fetchall() == [("queued", 0)]
        connection.execute("UPDATE jobs SET status = 'in_progress', crashes = ?", (crashes,))
    with serving(jobs_dir=tmp_path) as running:
        over = ended(running, job)
        assert over["status"] == status
        if over["error"]:
            assert (over["error"]["code"], f"{TRIES} times" in over["error"]["message"]) == ("engine_failure", True)


def test_a_recipe_that_cannot_run_here_any_more_is_an_error_that_says_so(tmp_path: Path) -> None:
    job = in_progress(tmp_path)
    with serving(GaussianEngine(prediction="eps"), jobs_dir=tmp_path) as running:
        over = ended(running, job)
        assert (over["status"], over["error"]["param"]) == ("failed", "model_digest")


def test_a_record_of_a_version_to_come_harms_no_other(tmp_path: Path) -> None:
    with interrupted(Held(), jobs_dir=tmp_path) as running:
        jobs = [accepted(running) for _ in range(4)]
    with database(tmp_path) as connection:
        for job, change in zip(jobs[1:3], ("'$.recipes[0].sampler', 'unheard-of'", "'$.quality', null"), strict=True):
            connection.execute(f"UPDATE jobs SET spec = json_set(spec, {change}) WHERE id = ?", (job["id"],))
    with serving(jobs_dir=tmp_path) as running:
        for job in (jobs[0], jobs[3]):
            assert ended(running, job)["status"] == "succeeded"
        answer = running.client.get(at(jobs[1])).json()
        assert (answer["status"], answer["error"]["param"]) == ("failed", "sampler")


def test_a_deadline_goes_on_while_the_service_is_away(tmp_path: Path) -> None:
    with interrupted(Held(), jobs_dir=tmp_path) as running:
        job = accepted(running, {**BODY, "deadline_ms": 600_000})
    with database(tmp_path) as connection:
        ((deadline,),) = connection.execute("SELECT json_extract(spec, '$.deadline') - created FROM jobs")
        assert 599 < deadline <= 600
        connection.execute("UPDATE jobs SET spec = json_set(spec, '$.deadline', 1000.0)")
    with serving(jobs_dir=tmp_path) as running:
        assert ended(running, job)["error"]["code"] == "deadline_exceeded"


class Away(GaussianEngine):
    there = False

    def health(self) -> None:
        if not self.there:
            raise EngineFailure("away")


def test_an_engine_that_is_away_at_the_start_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "RETRY", 0.02)
    job, engine = in_progress(tmp_path), Away()
    with serving(engine, jobs_dir=tmp_path) as running:
        assert asked(running, job)["status"] == "queued"
        engine.there = True
        assert ended(running, job)["status"] == "succeeded"
        assert [data["type"] for _, data in told(running, job)].count("job.in_progress") == 2


def test_what_was_accepted_has_room_after_the_start_and_keeps_its_order(tmp_path: Path) -> None:
    with interrupted(Held(), jobs_dir=tmp_path) as running:
        jobs = [accepted(running, {**BODY, "n": 2}) for _ in range(6)]
    with serving(jobs_dir=tmp_path, max_concurrency=1, max_wait_seconds=0) as running:
        assert [ended(running, job)["status"] for job in jobs] == ["succeeded"] * 6
    with database(tmp_path) as connection:
        finished = connection.execute("SELECT id FROM jobs ORDER BY finished").fetchall()
        assert finished == [(job["id"],) for job in jobs]


def test_files_that_no_record_names_are_swept_and_others_left(tmp_path: Path) -> None:
    with serving(jobs_dir=tmp_path) as running:
        job = ended(running, accepted(running))
    mine = tmp_path / f"{job['id']}-0.png"
    swept = [tmp_path / f"job-{'0' * 32}-0.png", mine.with_suffix(".partial")]
    others = [tmp_path / "job-report.png", tmp_path / "notes.txt", tmp_path / f"x{swept[0].name}"]
    for file in (*swept, *others):
        file.touch()
    with serving(jobs_dir=tmp_path) as running:
        assert files(running, asked(running, job)) == [mine.read_bytes()]
        assert not any(file.exists() for file in swept)
        assert all(file.exists() for file in others)
