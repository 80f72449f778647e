"""What is kept of long work: once, for as long as promised, no more than fits, for nobody else to read."""

import json
import logging
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from service import background
from service.api.access import JsonLines
from service.errors import InvalidRequest
from service.jobs import DATABASE
from tests.api.harness import Held, Running, eventually, serving
from tests.api.jobs import ASYNC, BODY, accepted, asked, at, ended, files
from tests.api.test_keys import written

STEPS = BODY["num_inference_steps"]


def database(running: Running) -> sqlite3.Connection:
    return running.parts.jobs._jobs._db  # type: ignore[union-attr]


def test_the_same_key_and_body_are_the_same_job(tmp_path: Path) -> None:
    engine = Held()
    engine.go.set()
    with serving(engine, jobs_dir=tmp_path) as running:
        body = {**BODY, "seed": None, "negative_prompt": None}
        job = accepted(running, body, **{"idempotency-key": '"k-1"'})
        assert accepted(running, dict(reversed(body.items())), **{"idempotency-key": '"k-1"'})["id"] == job["id"]
        ended(running, job)
        again = accepted(running, body, **{"idempotency-key": '"k-1"'})
        assert (again["id"], again["status"], again["recipes"]) == (job["id"], "succeeded", job["recipes"])
        assert len(engine.calls) == STEPS
        refused = running.post({**body, "prompt": "y"}, headers=ASYNC | {"idempotency-key": '"k-1"'})
        error = refused.json()["error"]
        assert (refused.status_code, error["code"], error["param"]) == (409, "conflict", "Idempotency-Key")
        other = accepted(running, {**body, "prompt": "y"}, **{"idempotency-key": "k-1"})
        assert other["id"] != job["id"]
        running.client.delete(at(job))
        assert accepted(running, body, **{"idempotency-key": '"k-1"'})["id"] != job["id"]


def test_a_key_without_a_job_is_refused(tmp_path: Path) -> None:
    with serving(jobs_dir=tmp_path) as running:
        for headers in ({}, {"prefer": "wait=5"}):
            answer = running.post(BODY, headers=headers | {"idempotency-key": "k"})
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, "Idempotency-Key")
        twice = [("prefer", "respond-async"), ("idempotency-key", "a"), ("idempotency-key", "b")]
        assert running.post(BODY, headers=twice).status_code == 400


def test_a_hundred_who_ask_with_one_key_get_one_job(tmp_path: Path) -> None:
    engine = Held()
    with serving(engine, jobs_dir=tmp_path) as running, ThreadPoolExecutor(20) as pool:
        body = {**BODY, "seed": None}
        ids = set(pool.map(lambda _: accepted(running, body, **{"idempotency-key": "k"})["id"], range(100)))
        engine.go.set()
        (job,) = ids
        assert ended(running, {"id": job})["status"] == "succeeded"
        assert len(engine.calls) == STEPS


def test_a_key_is_its_owners(tmp_path: Path) -> None:
    file, (mine, other) = written(tmp_path, ("mine", [], None), ("other", [], None))
    with serving(keys_file=file, jobs_dir=tmp_path / "jobs") as running:
        first, second = (accepted(running, **key, **{"idempotency-key": "k"}) for key in (mine, other))
        assert first["id"] != second["id"]
        running.post({**BODY, "seed": 8}, headers=ASYNC | other | {"idempotency-key": "new"})
        assert accepted(running, {**BODY, "seed": 9}, **mine, **{"idempotency-key": "new"})["recipes"][0]["seed"] == 9


def test_many_at_once_are_all_made(tmp_path: Path) -> None:
    with serving(jobs_dir=tmp_path) as running, ThreadPoolExecutor(10) as pool:
        bodies = [{**BODY, "seed": seed, "n": 2, "num_inference_steps": 2} for seed in range(0, 60, 2)]
        jobs = list(pool.map(lambda body: accepted(running, body), bodies))
        over = [ended(running, job) for job in jobs]
        assert [job["status"] for job in over] == ["succeeded"] * 30
        made = [[picture["seed"] for picture in job["pictures"]] for job in over]
        assert made == [[seed, seed + 1] for seed in range(0, 60, 2)]
        assert len({data for job in over for data in files(running, job)}) == 60
        assert running.value("darkroom_jobs", state="succeeded") == 30
        used = sum(file.stat().st_size for file in tmp_path.glob("job-*"))
        assert used < running.value("darkroom_jobs_stored_bytes") < 3 * used


def test_a_job_is_forgotten_when_its_time_is_over(tmp_path: Path) -> None:
    engine = Held()
    with serving(engine, jobs_dir=tmp_path, jobs_keep_seconds=0.3) as running:
        job = accepted(running)
        eventually(lambda: engine.calls)
        running.parts.jobs._jobs.expire(time.time())  # type: ignore[union-attr]
        assert asked(running, job)["status"] == "in_progress"  # its time begins with its end
        engine.go.set()
        eventually(lambda: running.client.get(at(job)).status_code == 404)
        assert [file.name for file in tmp_path.iterdir() if not file.name.startswith(DATABASE)] == []
        eventually(lambda: running.value("darkroom_jobs_stored_bytes") == 0)


def test_an_owners_jobs_take_no_more_than_allowed(tmp_path: Path) -> None:
    file, (mine, other) = written(tmp_path, ("mine", [], None), ("other", [], None))
    folder = tmp_path / "jobs"
    with serving(keys_file=file, jobs_dir=folder, jobs_max_bytes=50_000) as running:
        kept = [ended(running, accepted(running, **mine), **mine)]
        while (answer := running.post(BODY, headers=ASYNC | mine)).status_code == 202:
            kept.append(ended(running, answer.json(), **mine))
            assert len(kept) < 20
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        assert 86_300 <= int(answer.headers["retry-after"]) <= 86_400
        assert running.value("darkroom_refusals_total", reason="storage") == 1
        assert sum(file.stat().st_size for file in folder.glob("job-*")) <= 50_000
        accepted(running, **other)
        for job in kept:
            assert running.client.delete(at(job), headers=mine).status_code == 200
        accepted(running, **mine)


def test_what_may_not_fit_when_it_is_done_is_not_begun(tmp_path: Path) -> None:
    engine = Held()
    with serving(engine, jobs_dir=tmp_path, jobs_max_bytes=50_000) as running:
        accepted(running)
        accepted(running)
        assert running.post(BODY, headers=ASYNC).status_code == 429  # nothing is made yet
        assert running.value("darkroom_jobs", state="queued") + running.value("darkroom_jobs", state="in_progress") == 2


def test_a_full_disk_refuses_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "RETRY", 0.02)
    engine = Held()
    with serving(engine, jobs_dir=tmp_path) as running:
        job = accepted(running)
        eventually(lambda: asked(running, job)["status"] == "in_progress")
        (pages,) = database(running).execute("PRAGMA page_count").fetchone()
        database(running).execute(f"PRAGMA max_page_count = {pages}")  # SQLite's own way to be out of space
        answer = running.post({**BODY, "prompt": "y" * 30_000}, headers=ASYNC)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
        assert "full" in answer.json()["error"]["message"]
        database(running).execute("PRAGMA max_page_count = 1000000")
        engine.go.set()
        assert ended(running, job)["status"] == "succeeded"
        eventually(lambda: running.parts.runner.idle)
        assert running.value("darkroom_jobs", state="queued") == 0


def test_an_end_that_cannot_be_recorded_is_recorded_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "RETRY", 0.02)
    with serving(jobs_dir=tmp_path) as running:
        refuse = "CREATE TRIGGER full BEFORE UPDATE OF finished ON jobs BEGIN SELECT RAISE(ABORT, 'full'); END"
        database(running).execute(refuse)
        job = accepted(running)
        eventually(lambda: len(asked(running, job)["pictures"]) == 1)
        assert asked(running, job)["status"] == "in_progress"
        database(running).execute("DROP TRIGGER full")
        assert ended(running, job)["status"] == "succeeded"


def test_a_picture_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    engine = Held()
    with serving(engine, jobs_dir=tmp_path) as running:
        job = accepted(running)
        (tmp_path / f"{job['id']}-0.partial").mkdir()  # in the way
        engine.go.set()
        over = ended(running, job)
        assert (over["status"], over["error"]["code"]) == ("failed", "unavailable")
        assert str(tmp_path) not in json.dumps(over["error"])


def test_nobody_else_can_read_and_no_prompt_leaves(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "darkroom")
    secret = "an unmistakable secret"
    with serving(jobs_dir=tmp_path / "jobs") as running:
        job = ended(running, accepted(running, {**BODY, "prompt": secret, "n": 2}))
        assert job["recipes"][1]["prompt"] == secret
        assert (tmp_path / "jobs").stat().st_mode & 0o777 == 0o700
        kept = [*(tmp_path / "jobs").iterdir()]
        assert {file.stat().st_mode & 0o777 for file in kept} == {0o600}
        assert {file.name for file in kept} >= {DATABASE, f"{job['id']}-0.png", f"{job['id']}-1.png"}
        assert secret not in running.client.get("/metrics").text
    lines = [JsonLines().format(record) for record in caplog.records]
    assert not [line for line in lines if secret in line]
    (line,) = (json.loads(line) for line in lines if json.loads(line)["message"] == "job")
    assert (line["job"], line["outcome"]) == (job["id"], "ok")


@pytest.mark.parametrize("damage", ["noise", "page", "shorter"])
def test_a_damaged_database_is_named_at_the_start(tmp_path: Path, damage: str) -> None:
    with serving(jobs_dir=tmp_path) as running:
        for _ in range(8):
            accepted(running, {**BODY, "n": 10, "prompt": "x" * 1000})
        eventually(lambda: running.parts.runner.idle)
    file = tmp_path / DATABASE
    content = file.read_bytes()
    broken = {
        "noise": b"x" * 5000,
        "page": content[:8192] + b"\xff" * 8192 + content[16384:],
        "shorter": content[:9000],
    }
    file.write_bytes(broken[damage])
    with pytest.raises(InvalidRequest, match="damaged") as refused, serving(jobs_dir=tmp_path):
        pass
    assert (refused.value.field, str(file) in refused.value.message) == ("jobs_dir", True)
    assert file.stat().st_size == len(broken[damage])  # left for whoever can read it


def test_a_folder_is_one_services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connect: Any = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **options: connect(*args, **options, timeout=0.1))
    with serving(jobs_dir=tmp_path) as running:
        with pytest.raises(InvalidRequest, match="another process"), serving(jobs_dir=tmp_path):
            pass
        assert ended(running, accepted(running))["status"] == "succeeded"


@pytest.mark.parametrize("folder", ["file", "file/below"])
def test_a_folder_that_cannot_be_is_named(tmp_path: Path, folder: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InvalidRequest, match="JOBS_DIR"), serving(jobs_dir=tmp_path / folder):
        pass
