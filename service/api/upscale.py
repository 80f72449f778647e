"""A caller's own picture, enlarged."""

import asyncio
from typing import Any

from fastapi import APIRouter, Depends, Request, Response

from service.api import accept, body, jobs, pictures, schemas
from service.api.deps import Caller, House, caller
from service.api.enlarging import UpscaleRequest
from service.api.errors import documented
from service.api.openai import REFUSALS, sent
from service.errors import InvalidRequest

router = APIRouter(prefix="/v1", tags=["upscale"], dependencies=[Depends(caller)], responses=documented(401))

PNG: dict[str, Any] = {"image/png": {"schema": {"type": "string", "format": "binary"}}}
TEXTS = {"model", "method", "sampler"}  # query parameters; the others are numbers, or a list of them


@router.post(
    "/images/upscale",
    responses={200: {"content": PNG}, **jobs.ACCEPTED, **documented(*REFUSALS)},
    response_model=schemas.ImageResponse,
    openapi_extra=body.documented_picture(UpscaleRequest, jobs.HEADERS["parameters"]),
)
async def upscale(request: Request, house: House, key: Caller) -> Response:
    """The body, a PNG, JPEG or WebP file, 4 or 16 times as large: a PNG file that is sent while it is made, or JSON.

    With ``Prefer: respond-async`` it becomes a job, to be asked for at its ``Location``.
    """
    asked = UpscaleRequest.parse(_values(request.query_params.multi_items()))
    if jobs.preferred(request):
        data = await body.picture(request, house.settings.max_image_bytes)
        return await jobs.enlarged(request, house, asked, data, key)
    media = accept.best(request.headers.get("accept", ""), (accept.JSON, "image/png"))
    data = await body.picture(request, house.settings.max_image_bytes)
    order = await asyncio.to_thread(pictures.enlargement, house, asked, data, media, request.state.record, key)
    return await sent(request, house, order, media)


def _values(query: list[tuple[str, str]]) -> dict[str, Any]:
    """The parameters, each given once."""
    found: dict[str, Any] = {}
    for name, text in query:
        if name in found:
            raise InvalidRequest(f"{name[:100]} is given twice", field=name)
        found[name] = text if name in TEXTS else body.number(name, text)
    return found
