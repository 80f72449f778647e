"""Long work: the pictures of a synchronous request, told to whoever may know, whenever they ask."""

import base64
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.admission import GUESS
from service.api import streaming
from service.engines.gaussian import GaussianEngine
from service.errors import EngineFailure
from tests.api.harness import Held, Running, eventually, serving
from tests.api.jobs import ASYNC, BODY, accepted, asked, at, ended, files, happened, told
from tests.api.test_deadlines import Slow
from tests.api.test_keys import written
from tests.api.test_streaming import streamed


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with serving(jobs_dir=tmp_path_factory.mktemp("jobs")) as service:
        yield service


@pytest.mark.parametrize("extra", [{}, {"output_format": "webp", "output_compression": 80}, {"output_format": "jpeg"}])
def test_a_job_ends_in_the_files_of_a_synchronous_request(running: Running, extra: dict[str, Any]) -> None:
    body = {**BODY, "n": 3, **extra}
    job = ended(running, accepted(running, body))
    assert (job["status"], job["error"], job["position"]) == ("succeeded", None, None)
    assert (job["steps_done"], job["steps"]) == (24, 24)
    made = running.post(body).json()["data"]
    assert files(running, job) == [base64.b64decode(one["b64_json"]) for one in made]
    assert job["recipes"] == [one["recipe"] for one in made]
    assert [(picture["number"], picture["seed"]) for picture in job["pictures"]] == [(0, 7), (1, 8), (2, 9)]
    answer = running.client.get(job["pictures"][0]["url"])
    assert answer.headers["content-type"] == f"image/{extra.get('output_format', 'png')}"
    assert job["created_at"] <= job["started_at"] <= job["finished_at"] == job["expires_at"] - 86_400


def test_seeds_are_drawn_when_a_job_is_accepted(running: Running) -> None:
    job = accepted(running, {**BODY, "seed": None, "n": 2})
    first, second = (recipe["seed"] for recipe in job["recipes"])
    assert second == first + 1
    assert ended(running, job)["recipes"] == job["recipes"]


@pytest.mark.parametrize("prefer", ["respond-async", "Respond-Async; x=1", 'return=minimal, respond-async, wait="10"'])
def test_the_preference_is_found_among_others(running: Running, prefer: str) -> None:
    assert running.post(BODY, headers={"prefer": prefer}).status_code == 202


@pytest.mark.parametrize("prefer", ["", "wait=10", "respond-asynchronously", 'x="respond-async"', "x=respond-async"])
def test_other_preferences_change_nothing(running: Running, prefer: str) -> None:
    answer = running.post(BODY, headers={"prefer": prefer})
    assert (answer.status_code, "preference-applied" in answer.headers) == (200, False)


def test_a_job_that_waits_says_for_how_long(tmp_path: Path) -> None:
    engine = Held()
    with serving(engine, max_concurrency=1, jobs_dir=tmp_path) as running:
        first = accepted(running, {**BODY, "n": 2})
        eventually(lambda: len(engine.calls) == 1)
        second, third = accepted(running), accepted(running)
        seconds = GUESS / running.parts.engine.places  # type: ignore[attr-defined]
        for job, place, pictures in ((first, None, None), (second, 1, 2), (third, 2, 3)):
            expected = (place, pictures and pictures * seconds)
            eventually(lambda job=job, e=expected: standing(asked(running, job)) == e)
        assert [asked(running, job)["status"] for job in (first, second)] == ["in_progress", "queued"]
        engine.go.set()
        assert [ended(running, job)["status"] for job in (first, second, third)] == ["succeeded"] * 3


def standing(job: dict[str, Any]) -> tuple[Any, Any]:
    return job["position"], job["estimated_start_seconds"]


def test_events_come_while_it_is_made(tmp_path: Path) -> None:
    engine = Held()
    with serving(engine, jobs_dir=tmp_path) as running:
        job = accepted(running, {**BODY, "partial_images": 2})
        with running.client.stream("GET", f"{at(job)}/events") as answer:
            lines = happened(answer.iter_lines())
            assert [next(lines) for _ in range(2)] == [
                (1, {"type": "job.queued", "id": job["id"]}),
                (2, {"type": "job.in_progress", "id": job["id"]}),
            ]
            engine.go.set()
            events = [*lines]
        assert [data["type"] for number, data in events if number] == [
            *["job.partial_image"] * 2,
            "job.picture",
            "job.succeeded",
        ]
        steps = [data["steps_done"] for _, data in events if data["type"] == "job.progress"]
        assert steps == sorted(set(steps))
        assert set(steps) <= set(range(1, 9))
        (made,) = (data for _, data in events if data["type"] == "job.picture")
        assert {"number": 0, "url": f"{at(job)}/pictures/0", "seed": 7}.items() <= made.items()
        (*shown, _) = streamed(running, partial_images=2)
        previews = [data for _, data in events if data["type"] == "job.partial_image"]
        for name in ("b64_json", "step", "steps", "partial_image_index", "output_format"):
            assert [data[name] for data in previews] == [data[name] for _, data in shown]


def test_who_comes_back_is_told_the_rest(running: Running) -> None:
    job = ended(running, accepted(running, {**BODY, "n": 2, "partial_images": 1}))
    everything = told(running, job)
    assert [number for number, _ in everything] == list(range(1, len(everything) + 1))
    for heard in range(len(everything)):
        assert told(running, job, heard) == everything[heard:]
    for heard in (len(everything), 10**9 - 1):
        answer = running.client.get(f"{at(job)}/events", headers={"last-event-id": str(heard)})
        assert (answer.status_code, answer.content) == (204, b"")


@pytest.mark.parametrize("last", ["", "x", "-1", "1.5", "1" * 10, "\u0661", "1 2"])
def test_an_event_id_that_is_not_ours_is_refused(running: Running, last: str) -> None:
    job = accepted(running)
    answer = running.client.get(f"{at(job)}/events", headers={"last-event-id": last.encode()})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "Last-Event-ID")
    assert running.client.get(f"{at(job)}/events", headers={"accept": "application/json"}).status_code == 406


def test_the_place_in_the_queue_keeps_a_connection_alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "KEEP_ALIVE", 0.02)
    engine = Held()
    with serving(engine, max_concurrency=1, jobs_dir=tmp_path) as running:
        accepted(running)
        eventually(lambda: engine.calls)
        accepted(running)
        with running.client.stream("GET", f"{at(accepted(running))}/events") as answer:
            lines = answer.iter_lines()
            assert [line for line in (next(lines) for _ in range(8)) if line.startswith(":")] == [": 1 ahead"] * 2
            engine.go.set()
            assert [data["type"] for _, data in happened(lines)][-1] == "job.succeeded"


def test_deleting_stops_the_work_and_leaves_nothing(tmp_path: Path) -> None:
    engine, secret = Held(), "an unmistakable secret"
    with serving(engine, max_concurrency=1, jobs_dir=tmp_path) as running:
        runs, waits = (accepted(running, {**BODY, "prompt": secret}) for _ in range(2))
        eventually(lambda: engine.calls)
        with running.client.stream("GET", f"{at(runs)}/events") as answer:
            lines = happened(answer.iter_lines())
            assert next(lines)[1]["type"] == "job.queued"
            for job in (runs, waits):
                with httpx.Client(base_url=running.url) as client:
                    gone = {"id": job["id"], "object": "job", "deleted": True}
                    assert client.delete(at(job)).json() == gone
                    for path in ("", "/events", "/pictures/0"):
                        assert client.get(at(job) + path).status_code == 404
                    assert client.delete(at(job)).status_code == 404
            assert [*lines][-1] == (None, {"type": "job.cancelled", "id": runs["id"]})
        engine.go.set()
        eventually(lambda: running.parts.runner.idle)
        assert len(engine.calls) == 1
        done = ended(running, accepted(running, {**BODY, "prompt": secret, "partial_images": 3}))
        assert len(files(running, done)) == 1
        assert running.client.delete(at(done)).status_code == 200
        assert not [file for file in tmp_path.iterdir() if secret.encode() in file.read_bytes()]
        assert not [*tmp_path.glob("job-*")]
        assert running.value("darkroom_jobs_stored_bytes") == 0


def test_cancelling_by_request_id_keeps_the_record(tmp_path: Path) -> None:
    engine = Held()
    with serving(engine, jobs_dir=tmp_path) as running:
        job = accepted(running, **{"x-request-id": "mine"})
        eventually(lambda: engine.calls)
        assert running.client.delete("/v1/images/generations/mine").status_code == 200
        engine.go.set()
        over = ended(running, job)
        assert (over["status"], over["error"]["code"], over["pictures"]) == ("cancelled", "cancelled", [])
        assert told(running, job)[-1][1]["type"] == "job.cancelled"


class Failing(GaussianEngine):
    def decode(self, *_: object) -> Any:
        raise EngineFailure("the device is gone")


class Buggy(GaussianEngine):
    def decode(self, *_: object) -> Any:
        raise ZeroDivisionError("an inner secret")


@pytest.mark.parametrize(
    ("engine", "extra", "kind", "code", "field"),
    [
        (Failing, {}, "server_error", "engine_failure", None),
        (Buggy, {}, "server_error", "internal_error", None),
        (GaussianEngine, {"prompt": "x" * 1025}, "invalid_request_error", "invalid_value", "prompt"),
        (Held, {"deadline_ms": 300}, "server_error", "deadline_exceeded", "deadline_ms"),
    ],
)
def test_what_fails_says_why(
    tmp_path: Path, engine: Any, extra: dict[str, Any], kind: str, code: str, field: str | None
) -> None:
    with serving(engine(), jobs_dir=tmp_path) as running:
        job = ended(running, accepted(running, BODY | extra))
        error = job["error"]
        assert (job["status"], error["type"], error["code"], error["param"]) == ("failed", kind, code, field)
        assert "inner secret" not in error["message"]
        assert told(running, job)[-1][1] == {"type": "job.failed", "id": job["id"], "error": error}
        assert running.client.get(f"{at(job)}/pictures/0").status_code == 404
        labels = {"api": "jobs", "preset": "balanced", "outcome": code}
        assert running.value("darkroom_requests_total", **labels) == 1
        assert running.value("darkroom_jobs", state="failed") == 1


class HeldDecoder(GaussianEngine):
    def __init__(self) -> None:
        super().__init__()
        self.reached, self.go = threading.Event(), threading.Event()

    def decode(self, *args: Any) -> Any:
        self.reached.set()
        assert self.go.wait(30)
        return super().decode(*args)


def test_a_picture_that_comes_after_the_end_is_not_kept(tmp_path: Path) -> None:
    engine = HeldDecoder()
    with serving(engine, jobs_dir=tmp_path) as running:
        job = accepted(running)
        assert engine.reached.wait(30)
        pictures = running.parts.jobs._live[job["id"]].admitted.pictures  # type: ignore[union-attr]
        pictures.get_loop().call_soon_threadsafe(pictures.cancel)  # as a deadline does
        assert ended(running, job)["status"] == "cancelled"
        engine.go.set()
        eventually(lambda: running.parts.runner.idle)
        assert (asked(running, job)["pictures"], [*tmp_path.glob("job-*")]) == ([], [])
        assert told(running, job)[-1][1]["type"] == "job.cancelled"


@pytest.mark.parametrize(
    ("extra", "headers", "status", "field"),
    [
        ({"stream": True}, {}, 400, "stream"),
        ({"response_format": "b64_json"}, {}, 400, "response_format"),
        ({"partial_images": 4}, {}, 400, "partial_images"),
        ({"steps": 5}, {}, 400, "steps"),
        ({}, {"accept": "image/png"}, 406, None),
        ({}, {"idempotency-key": ""}, 400, "Idempotency-Key"),
        ({}, {"idempotency-key": "x" * 256}, 400, "Idempotency-Key"),
        ({}, {"idempotency-key": "caf\xe9"}, 400, "Idempotency-Key"),
    ],
)
def test_what_a_job_cannot_be_is_refused_by_name(
    running: Running, extra: dict[str, Any], headers: dict[str, str], status: int, field: str | None
) -> None:
    encoded = {name: value.encode("latin-1") for name, value in headers.items()}
    answer = running.post(BODY | extra, headers=ASYNC | encoded)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, field), answer.text


def test_an_order_that_is_refused_is_not_stored(tmp_path: Path) -> None:
    engine = Held()
    with serving(engine, max_concurrency=1, max_wait_seconds=1, jobs_dir=tmp_path) as running:
        accepted(running)
        eventually(lambda: engine.calls)
        refused = running.post(BODY, headers=ASYNC)
        assert (refused.status_code, refused.headers["retry-after"] >= "1") == (429, True)
        running.parts.runner.drain()
        assert running.post(BODY, headers=ASYNC).status_code == 503
        states = ("queued", "in_progress", "succeeded", "failed", "cancelled")
        assert [running.value("darkroom_jobs", state=state) for state in states] == [0, 1, 0, 0, 0]


def test_a_deadline_that_cannot_be_met_is_refused_before_anything_is_stored(tmp_path: Path) -> None:
    with serving(Slow(), jobs_dir=tmp_path) as running:
        assert ended(running, accepted(running, {**BODY, "deadline_ms": 60_000}))["status"] == "succeeded"
        answer = running.post({**BODY, "num_inference_steps": 100, "deadline_ms": 1000}, headers=ASYNC)
        assert (answer.status_code, answer.json()["error"]["param"]) == (504, "deadline_ms")
        assert len([*tmp_path.glob("job-*")]) == running.value("darkroom_jobs", state="succeeded") == 1


def test_without_a_folder_there_are_no_jobs() -> None:
    with serving() as running:
        answer = running.post(BODY, headers=ASYNC)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "Prefer")
        assert "DARKROOM_JOBS_DIR" in answer.json()["error"]["message"]
        assert running.client.get("/v1/jobs/x").status_code == 404


IDS = [
    "..",
    "%2e%2e",
    "x",
    "job-" + "0" * 32,
    "' OR 1=1 --",
    "%00",
    "%F0%9F%9A%A4",
    "a" * 5000,
    "jobs.sqlite",
    "%2Fetc",
]


@pytest.mark.parametrize("job", IDS)
def test_ids_that_are_not_ours_find_nothing(running: Running, job: str) -> None:
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/events"), ("GET", "/pictures/0")):
        answer = running.client.request(method, f"/v1/jobs/{job}{path}")
        assert (answer.status_code, len(answer.content) < 3000) == (404, True), (method, path)
        assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("number", ["1", "-1", "00", "0.0", "x", "%2e%2e", "9" * 5000, "0%00", "\u0660"])
def test_numbers_that_are_no_pictures_find_nothing(running: Running, number: str) -> None:
    job = ended(running, accepted(running))
    answer = running.client.get(f"{at(job)}/pictures/{number}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


def test_ids_cannot_be_guessed(running: Running) -> None:
    ids = {accepted(running)["id"] for _ in range(4)}
    assert len(ids) == 4
    assert all(re.fullmatch(r"job-[0-9a-f]{32}", job) for job in ids)


def test_a_methods_list_is_whole(running: Running) -> None:
    answer = running.client.put(at(accepted(running)))
    assert (answer.status_code, answer.headers["allow"]) == (405, "DELETE, GET")


def test_a_job_belongs_to_the_key_that_it_came_with(tmp_path: Path) -> None:
    file, (mine, other) = written(tmp_path, ("mine", [], None), ("other", [], None))
    with serving(keys_file=file, jobs_dir=tmp_path / "jobs") as running:
        job = ended(running, accepted(running, **mine), **mine)
        for path in ("", "/events", "/pictures/0"):
            assert running.client.get(at(job) + path, headers=mine).status_code == 200
            assert running.client.get(at(job) + path, headers=other).status_code == 404
            assert running.client.get(at(job) + path).status_code == 401
        assert running.client.delete(at(job), headers=other).status_code == 404
        assert running.client.delete(at(job), headers=mine).status_code == 200
