"""A caller's own picture as a job: the file of the synchronous request, whatever happens in between."""

import errno
import io
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from service.engines.gaussian import GaussianEngine
from service.jobs import DATABASE
from tests.api.harness import Running, eventually, serving
from tests.api.jobs import ASYNC, accepted, asked, at, ended, files, shown, told
from tests.api.test_keys import written

NETWORK, LANCZOS = "factor=4&seed=7", "factor=4&method=lanczos"


def picture(seed: int = 0) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 24, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def sent(running: Running, data: bytes, query: str, **headers: str) -> httpx.Response:
    return running.client.post(
        f"/v1/images/upscale?{query}", content=data, headers={"content-type": "image/png"} | headers
    )


def job_of(running: Running, query: str, **headers: str) -> dict[str, Any]:
    """The job that a picture became."""
    answer = sent(running, picture(), query, **ASYNC, **headers)
    assert answer.status_code == 202, answer.text
    job = shown(answer)
    assert (answer.headers["location"], answer.headers["preference-applied"]) == (at(job), "respond-async")
    return job


def digest(data: bytes) -> str:
    return sha256(data).hexdigest()


def kept(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir() if not file.name.startswith(DATABASE)]


@pytest.mark.parametrize(("query", "steps"), [(NETWORK, 15), (LANCZOS, 2)])
def test_it_ends_in_the_file_of_the_synchronous_request_and_is_forgotten_whole(
    tmp_path: Path, query: str, steps: int
) -> None:
    with serving(jobs_dir=tmp_path) as running:
        job = ended(running, job_of(running, query))
        assert (job["status"], job["steps"], job["steps_done"]) == ("succeeded", steps, steps)
        sync = sent(running, picture(), query, accept="image/png")
        assert [digest(file) for file in files(running, job)] == [digest(sync.content)]
        names = [data["type"] for number, data in told(running, job) if number]
        assert names == ["job.queued", "job.in_progress", "job.picture", "job.succeeded"]
        assert sorted(kept(tmp_path)) == [f"{job['id']}-0.png", f"{job['id']}.upload"]
        assert {(tmp_path / name).stat().st_mode & 0o777 for name in kept(tmp_path)} == {0o600}
        assert running.value("darkroom_jobs_stored_bytes") > len(picture()) + len(sync.content)
        assert running.value("darkroom_requests_total", api="jobs", preset="none", outcome="ok") == 1
        assert running.client.delete(at(job)).status_code == 200
        assert (kept(tmp_path), running.value("darkroom_jobs_stored_bytes")) == ([], 0)


class Held(GaussianEngine):
    """An upsampler that waits in its second call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.stuck, self.go = 0, threading.Event(), threading.Event()

    def upsample(self, *arguments: Any) -> Any:
        self.calls += 1
        if self.calls > 1:
            self.stuck.set()
            assert self.go.wait(30)
        return super().upsample(*arguments)


@contextmanager
def held(folder: Path, **settings: Any) -> Iterator[tuple[Running, dict[str, Any]]]:
    """A service that stops amid a job."""
    engine = Held()
    with serving(engine, jobs_dir=folder, **settings) as running:
        job = job_of(running, "factor=4")
        assert engine.stuck.wait(30)
        try:
            yield running, job
            running.parts.runner.drain()
            running.parts.runner.cancel()
        finally:
            engine.go.set()


def test_the_next_start_finishes_it_from_the_picture_that_was_kept(tmp_path: Path) -> None:
    with held(tmp_path) as (running, job):
        assert asked(running, job)["status"] == "in_progress"
    strange = tmp_path / f"job-{'0' * 32}.upload"
    strange.touch()
    with serving(jobs_dir=tmp_path) as running:
        over = ended(running, job)
        assert (over["status"], over["recipes"]) == ("succeeded", job["recipes"])
        (recipe,) = over["recipes"]
        sync = sent(running, picture(), f"factor=4&seed={recipe['seed']}", accept="image/png")
        assert [digest(file) for file in files(running, over)] == [digest(sync.content)]
        assert not strange.exists()


def test_what_cannot_be_made_here_any_more_says_so(tmp_path: Path) -> None:
    with held(tmp_path) as (_, job):
        pass
    with serving(GaussianEngine(prediction="eps"), jobs_dir=tmp_path) as running:
        over = ended(running, job)
        assert (over["status"], over["error"]["param"]) == ("failed", "model_digest")


def test_a_picture_that_is_lost_fails_the_job_alone(tmp_path: Path) -> None:
    with held(tmp_path) as (_, job):
        pass
    (tmp_path / f"{job['id']}.upload").unlink()
    with serving(jobs_dir=tmp_path) as running:
        over = ended(running, job)
        assert (over["status"], over["error"]["code"]) == ("failed", "unavailable")
        assert ended(running, job_of(running, LANCZOS))["status"] == "succeeded"


def test_it_waits_its_turn_and_can_be_deleted(tmp_path: Path) -> None:
    with held(tmp_path, max_concurrency=1) as (running, first):
        waiting = [job_of(running, LANCZOS) for _ in range(2)]
        standing = [asked(running, job) for job in waiting]
        assert [(job["status"], job["position"]) for job in standing] == [("queued", 0), ("queued", 1)]
        assert all(job["estimated_start_seconds"] > 0 for job in standing)
        for job in (*waiting, first):
            assert running.client.delete(at(job)).status_code == 200
        assert kept(tmp_path) == []


def test_a_key_names_one_job_of_one_picture(tmp_path: Path) -> None:
    key = {"idempotency-key": "k"}
    with serving(jobs_dir=tmp_path) as running:
        job = job_of(running, NETWORK, **key)
        assert job_of(running, NETWORK, **key)["id"] == job["id"]
        for data, query in ((picture(1), NETWORK), (picture(), LANCZOS)):
            assert sent(running, data, query, **ASYNC, **key).status_code == 409
        assert running.post({"prompt": "x", "size": "64x64"}, headers=ASYNC | key).status_code == 409
        answer = sent(running, picture(), NETWORK, **key)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "Idempotency-Key")


def test_the_picture_counts_among_what_an_owner_may_keep(tmp_path: Path) -> None:
    file, (mine,) = written(tmp_path, ("mine", [], None))
    most = len(picture()) + 4 * (160 * 96) + 3000
    for limit, status in ((most, 202), (most - len(picture()), 429)):
        folder = tmp_path / str(limit)
        with serving(keys_file=file, jobs_dir=folder, jobs_max_bytes=limit) as running:
            answer = sent(running, picture(), LANCZOS, **ASYNC, **mine)
            assert answer.status_code == status, answer.text
            assert len([name for name in kept(folder) if name.endswith(".upload")]) == (status == 202)


def test_what_is_refused_is_not_kept(tmp_path: Path) -> None:
    with serving(jobs_dir=tmp_path) as running:
        for data, query, param in ((b"<svg/>", LANCZOS, "image"), (picture(), "factor=5", "factor")):
            answer = sent(running, data, query, **ASYNC)
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
        assert sent(running, picture(), LANCZOS, accept="image/png", **ASYNC).status_code == 406
        assert kept(tmp_path) == []
    with serving() as running:
        answer = sent(running, picture(), LANCZOS, **ASYNC)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "Prefer")


def test_a_full_disk_refuses_and_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with serving(jobs_dir=tmp_path) as running:
        monkeypatch.setattr(os, "fsync", full)
        answer = sent(running, picture(), LANCZOS, **ASYNC)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
        assert "No space left" in answer.json()["error"]["message"]
        eventually(lambda: running.parts.runner.idle)
        assert (kept(tmp_path), running.value("darkroom_jobs", state="queued")) == ([], 0)


def test_others_are_told_nothing_of_it(tmp_path: Path) -> None:
    file, (mine, other) = written(tmp_path, ("mine", [], None), ("other", [], None))
    with serving(keys_file=file, jobs_dir=tmp_path / "jobs") as running:
        job = ended(running, job_of(running, LANCZOS, **mine), **mine)
        assert running.client.get(job["pictures"][0]["url"], headers=other).status_code == 404
        assert accepted(running, {"prompt": "x", "size": "64x64"}, **other)["id"] != job["id"]
