"""Long work as a client sees it."""

import json
from collections.abc import Iterator
from typing import Any

import httpx

from service.api import schemas
from tests.api.harness import Running, eventually

ASYNC = {"prefer": "respond-async"}
BODY: dict[str, Any] = {"prompt": "x", "size": "64x64", "seed": 7, "num_inference_steps": 8}
ENDED = ("succeeded", "failed", "cancelled")


def accepted(running: Running, body: dict[str, Any] = BODY, **headers: str) -> dict[str, Any]:
    """The job that a request became."""
    answer = running.post(body, headers=ASYNC | headers)
    assert answer.status_code == 202, answer.text
    assert answer.headers["preference-applied"] == "respond-async"
    job = shown(answer)
    assert answer.headers["location"] == at(job)
    return job


def shown(answer: httpx.Response) -> dict[str, Any]:
    """A job that is what its schema says, and nothing else."""
    job: dict[str, Any] = answer.json()
    schemas.Job.model_validate(job)
    assert job.keys() == schemas.Job.model_fields.keys()
    return job


def at(job: dict[str, Any]) -> str:
    return f"/v1/jobs/{job['id']}"


def asked(running: Running, job: dict[str, Any], **headers: str) -> dict[str, Any]:
    """The job as it stands."""
    answer = running.client.get(at(job), headers=headers)
    assert answer.status_code == 200, answer.text
    return shown(answer)


def ended(running: Running, job: dict[str, Any], **headers: str) -> dict[str, Any]:
    """The job when it is over."""
    eventually(lambda: asked(running, job, **headers)["status"] in ENDED, 60)
    return asked(running, job, **headers)


def files(running: Running, job: dict[str, Any]) -> list[bytes]:
    return [running.client.get(picture["url"]).content for picture in job["pictures"]]


def happened(lines: Iterator[str]) -> Iterator[tuple[int | None, dict[str, Any]]]:
    """Number (None: not to be repeated) and data of each event; WHATWG's format as far as it is used."""
    number, name = None, ""
    for line in lines:
        kind, _, value = line.partition(": ")
        if kind == "id":
            number = int(value)
        elif kind == "event":
            name = value
        elif kind == "data":
            data = json.loads(value)
            assert data["type"] == name
            assert data.keys() <= schemas.JobEventData.model_validate(data).model_fields_set
            yield number, data
            number = None


def told(running: Running, job: dict[str, Any], after: int | None = None) -> list[tuple[int | None, dict[str, Any]]]:
    """Every event from there to the end."""
    headers = {} if after is None else {"last-event-id": str(after)}
    with running.client.stream("GET", f"{at(job)}/events", headers=headers) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        return list(happened(answer.iter_lines()))
