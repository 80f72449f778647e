"""Long work over HTTP: accepted with ``Prefer: respond-async`` (RFC 7240), watched and deleted at its URL."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from functools import partial
from hashlib import sha256
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel

from service.api import accept, errors, pictures, schemas, streaming
from service.api.deps import Caller, House, Parts, caller
from service.api.enlarging import UpscaleRequest
from service.api.errors import documented
from service.background import Background
from service.errors import InvalidRequest, NotFound
from service.jobs import PICTURED, Event, Job
from service.keys import Key
from service.making import Order

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], dependencies=[Depends(caller)], responses=documented(401))

KEY, NUMBER = re.compile(r"[!-~]{1,255}"), re.compile(r"[0-9]{1,9}")
UNFIT = {
    "stream": "the events of a job are at its own address; leave stream out",
    "response_format": "the pictures of a job are at addresses of their own; leave response_format out",
}
FILES: dict[str, Any] = {media: {"schema": {"type": "string", "format": "binary"}} for media in accept.OFFERS[1:]}
ACCEPTED: dict[int | str, dict[str, Any]] = {
    202: {
        "model": schemas.Job,
        "description": "Accepted as a job",
        "headers": {name: {"schema": {"type": "string"}} for name in ("Location", "Preference-Applied")},
    }
}


def _header(name: str, description: str, pattern: str = "") -> dict[str, Any]:
    schema = {"type": "string"} | ({"pattern": f"^{pattern}$"} if pattern else {})
    return {"name": name, "in": "header", "description": description, "schema": schema}


HEADERS = {
    "parameters": [
        _header("Prefer", "respond-async: answer 202 and make a job of it"),
        _header("Idempotency-Key", "of a job: sent again, it names the same job", KEY.pattern),
    ]
}
RESUME = {"parameters": [_header("Last-Event-ID", "go on after this event", NUMBER.pattern)]}


def preferred(request: Request) -> bool:
    """Whether a job is asked for."""
    stated = re.sub(r'"[^"]*"', "", ",".join(request.headers.getlist("prefer")))
    names = {preference.split(";")[0].split("=")[0].strip().lower() for preference in stated.split(",")}
    if "respond-async" not in names and "idempotency-key" in request.headers:
        message = "only jobs are stored; add Prefer: respond-async or leave Idempotency-Key out"
        raise InvalidRequest(message, field="Idempotency-Key")
    return "respond-async" in names


async def accepted(request: Request, house: Parts, asked: schemas.ImageRequest, key: Key | None) -> Response:
    """The answer to a request that prefers to be a job."""
    for name, why in UNFIT.items():
        if getattr(asked, name):
            raise InvalidRequest(why, field=name)
    make = partial(pictures.order, house, asked, accept.JSON, request.state.record, key, job=True)
    return await _accepted(request, house, make, asked)


async def enlarged(request: Request, house: Parts, asked: UpscaleRequest, upload: bytes, key: Key | None) -> Response:
    """The same for a caller's own picture, which is kept with the job."""
    make = partial(pictures.enlargement, house, asked, upload, accept.JSON, request.state.record, key)
    return await _accepted(request, house, make, asked, upload)


async def _accepted(
    request: Request, house: Parts, make: Callable[[], Order], asked: BaseModel, upload: bytes = b""
) -> Response:
    if house.jobs is None:
        message = "this service keeps no jobs, DARKROOM_JOBS_DIR is not set; leave Prefer: respond-async out"
        raise InvalidRequest(message, field="Prefer")
    accept.best(request.headers.get("accept", ""), (accept.JSON,))
    given = request.headers.getlist("idempotency-key")
    if len(given) > 1 or not all(map(KEY.fullmatch, given)):
        raise InvalidRequest("Idempotency-Key must be 1 to 255 visible ASCII characters", field="Idempotency-Key")
    order = await asyncio.to_thread(make)
    digest = sha256(asked.model_dump_json(exclude_unset=True).encode() + upload).hexdigest()
    job = await house.jobs.accept(order, next(iter(given), None), digest, upload)
    request.state.record |= {"outcome": "accepted", "job": job.id}
    headers = {"location": _url(job), "preference-applied": "respond-async"}
    return JSONResponse(resource(house.jobs, job), 202, headers=headers)


def _kept(house: House) -> Background:
    if house.jobs is None:
        raise NotFound("this service keeps no jobs, DARKROOM_JOBS_DIR is not set", field="job_id")
    return house.jobs


Kept = Annotated[Background, Depends(_kept)]


async def _found(job_id: str, kept: Kept, key: Caller) -> Job:
    return await kept.find(job_id, key.name if key else "")


Found = Annotated[Job, Depends(_found)]


@router.get("/{job_id}", response_model=schemas.Job, responses=documented(404))
async def show(kept: Kept, job: Found) -> Response:
    """How far a job is, and where its pictures are."""
    return JSONResponse(resource(kept, job))


@router.delete("/{job_id}", responses=documented(404))
async def delete(kept: Kept, job: Found) -> schemas.JobDeleted:
    """Stop what runs of a job at its next network call; forget its record and its pictures."""
    await kept.remove(job)
    return schemas.JobDeleted(id=job.id)


@router.get(
    "/{job_id}/pictures/{number}", response_class=Response, responses={200: {"content": FILES}, **documented(404)}
)
async def picture(number: str, kept: Kept, job: Found) -> Response:
    """The file of one picture, as soon as it is done; its recipe is inside."""
    data = await kept.picture(job, number)
    headers = {"cache-control": "private, max-age=86400, immutable"}
    return Response(data, media_type=f"image/{job.spec['output_format']}", headers=headers)


@router.get(
    "/{job_id}/events",
    response_class=Response,
    responses={
        200: {"content": {accept.EVENTS: {"schema": {"$ref": "#/components/schemas/JobEvent"}}}},
        204: {"description": "The job is done and there is no event after this one"},
        **documented(400, 404, 406),
    },
    openapi_extra=RESUME,
)
async def events(request: Request, kept: Kept, job: Found) -> Response:
    """What happened to a job and what happens, as server-sent events; ``Last-Event-ID`` goes on where it broke off."""
    accept.best(request.headers.get("accept", ""), (accept.EVENTS,))
    after = request.headers.get("last-event-id", "0")
    if not NUMBER.fullmatch(after):
        raise InvalidRequest("Last-Event-ID is no id of an event", field="Last-Event-ID")
    if job.finished and not await kept.has_event(job, int(after)):
        return Response(status_code=204)  # which tells a browser's EventSource to stay away
    return StreamingResponse(_lines(kept, job, int(after)), media_type=accept.EVENTS, headers=streaming.HEADERS)


async def _lines(kept: Background, job: Job, after: int) -> AsyncIterator[str]:
    async for event in kept.watch(job, after, streaming.KEEP_ALIVE):
        if event is None:
            place = kept.place(job)
            yield f": {place.ahead if place else 0} ahead\n\n"
        else:
            yield streaming.event(event.name, json.dumps(_shown(job, event)), event.number)


def _shown(job: Job, event: Event) -> dict[str, Any]:
    data = {"type": event.name, "id": job.id, **event.data}
    if event.name == PICTURED:
        data["url"] = f"{_url(job)}/pictures/{data['number']}"
    if "error" in data:
        data["error"] = errors.body(**data["error"])["error"]
    return data


def resource(kept: Background, job: Job) -> dict[str, Any]:
    """A job as ``schemas.Job`` describes it."""
    place = kept.place(job)
    times = {"created_at": job.created, "started_at": job.started, "finished_at": job.finished}
    times["expires_at"] = job.finished and job.finished + kept.keep
    return {
        "id": job.id,
        "object": "job",
        "status": job.status,
        **{name: seconds and int(seconds) for name, seconds in times.items()},
        "position": place and place.ahead,
        "estimated_start_seconds": place and round(place.seconds, 3),
        "steps": job.steps * job.count,
        "steps_done": kept.steps_done(job),
        "output_format": job.spec["output_format"],
        "recipes": job.spec["recipes"],
        "pictures": [{**picture, "url": f"{_url(job)}/pictures/{picture['number']}"} for picture in job.pictures],
        "error": errors.body(**job.error)["error"] if job.error else None,
    }


def _url(job: Job) -> str:
    return f"/v1/jobs/{job.id}"
