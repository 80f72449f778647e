"""OpenAI's image routes, with a recipe in every request and every answer."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import APIRouter, Depends, Request, Response

from service import chart
from service.api import accept, body, catalogue, jobs, pictures, schemas, streaming, strips
from service.api.deps import Caller, House, Parts, caller
from service.api.errors import documented
from service.enlargement import work
from service.errors import Cancelled, InvalidRequest, NotFound
from service.making import Order
from service.recipe import AUTO

router = APIRouter(prefix="/v1", tags=["openai"], dependencies=[Depends(caller)], responses=documented(401, 403))

T = TypeVar("T")
CHART: dict[str, Any] = {accept.SVG: {"schema": {"type": "string"}}}
REFUSALS = 400, 404, 406, 409, 413, 415, 429, 503, 504
STREAM: dict[str, Any] = {accept.EVENTS: {"schema": {"$ref": "#/components/schemas/Event"}}}


@router.post(
    "/images/generations",
    responses={200: {"content": jobs.FILES | STREAM}, **jobs.ACCEPTED, **documented(*REFUSALS)},
    response_model=schemas.ImageResponse,
    openapi_extra=body.documented(schemas.ImageRequest) | jobs.HEADERS,
)
async def generations(request: Request, house: House, key: Caller) -> Response:
    """A prompt and a recipe become pictures: JSON, the file of one (``Accept: image/png``), or a stream of events.

    With ``Prefer: respond-async`` they become a job, to be asked for at its ``Location``.
    """
    asked = await body.read(request, schemas.ImageRequest, house.settings.max_body_bytes)
    if jobs.preferred(request):
        return await jobs.accepted(request, house, asked, key)
    media = accept.of_pictures(request.headers.get("accept", ""), stream=bool(asked.stream))
    order = await asyncio.to_thread(pictures.order, house, asked, media, request.state.record, key)
    if media == accept.EVENTS:
        return streaming.EventStream(house.runner, order, request.state.record)
    return await sent(request, house, order, media)


@router.delete("/images/generations/{request_id:path}", responses=documented(404))
async def cancel(request_id: str, house: House, key: Caller) -> schemas.Cancellation:
    """Stop what is in progress under this ``x-request-id``, at its next network call."""
    if not house.runner.cancel(request_id, key.name if key else None):
        raise NotFound(f"nothing is in progress under {request_id[:128]}", field="request_id")
    return schemas.Cancellation(id=request_id)


@router.post(
    "/explain",
    responses={200: {"content": CHART}, **documented(400, 404, 406, 413, 415)},
    response_model=schemas.Explanation,
    openapi_extra=body.documented(schemas.ExplainRequest),
)
async def explain(request: Request, house: House, key: Caller) -> Response:
    """A recipe resolved, with its network calls as a table or drawn (``Accept: image/svg+xml``), without running it."""
    asked = await body.read(request, schemas.ExplainRequest, house.settings.max_body_bytes)
    if asked.deadline_ms is not None and asked.preset != AUTO:
        raise InvalidRequest("only preset auto looks at deadline_ms here; leave it out", field="deadline_ms")
    media = accept.best(request.headers.get("accept", ""), (accept.JSON, accept.SVG))
    recipe = await asyncio.to_thread(pictures.resolved, house, asked, request.state.record, key)
    calls = await asyncio.to_thread(recipe.calls, house.engine.models[recipe.model])
    if media == accept.SVG:
        return Response(chart.steps(recipe, calls), media_type=media)
    steps = [schemas.Evaluation(**call._asdict()) for call in calls]
    passes = [schemas.UpscalePass(**each._asdict()) for each in work(recipe, house.engine.models[recipe.model]).passes]
    answer = schemas.Explanation(recipe=recipe, steps=steps, upscale=passes)
    return Response(answer.model_dump_json(), media_type=media)


@router.get("/models", responses=documented())
async def models(house: House) -> schemas.Models:
    """The models served here."""
    return schemas.Models(data=catalogue.models(house.engine))


@router.get("/models/{model}", responses=documented(404))
async def model(model: str, house: House) -> schemas.ModelCard:
    """One model."""
    return catalogue.model(house.engine, model)


@router.get("/presets", responses=documented())
async def presets(house: House) -> schemas.Presets:
    """The presets for these models, and the samplers, schedules and guidance methods that requests may name."""
    return catalogue.presets(house.presets, house.engine)


async def sent(request: Request, house: Parts, order: Order, media: str) -> Response:
    """What an order becomes, whole, or piece by piece from the first one on."""
    if not order.streamed:
        made = await unless_disconnected(request, house.runner.make(order))
        return pictures.as_json(order, made) if media == accept.JSON else pictures.as_file(made[0], media)
    pieces = strips.Strips(house.runner, order)
    try:
        await unless_disconnected(request, pieces.begun())
    except BaseException:
        pieces.close()
        raise
    return strips.FileStream(pieces, request.state.record, order.recipes[0].seed)


async def unless_disconnected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """``work``, cancelled when the client leaves."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Cancelled("the client left")
        return task.result()
    finally:
        task.cancel()
        gone.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
