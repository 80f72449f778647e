"""From a request to an order, from what was made to an answer."""

import base64
import time
from math import prod
from typing import Any

from fastapi import Response

from service import images, uploads
from service.api import accept, auto, schemas
from service.api.deps import Parts
from service.api.enlarging import UpscaleRequest
from service.engines.contract import Ticket
from service.enlargement import final
from service.errors import InvalidRequest
from service.keys import Key
from service.making import Made, Order
from service.recipe import Recipe

PRIVATE = {"prompt", "negative_prompt"}


def resolved(
    house: Parts, asked: schemas.ImageRequest | schemas.ExplainRequest, record: dict[str, Any], key: Key | None
) -> Recipe:
    """The recipe of a request, noted for the log without its prompts."""
    count = asked.n or 1 if isinstance(asked, schemas.ImageRequest) else 1
    known, limit = (house.settings, house.engine, house.presets), asked.deadline_ms
    ticket = _ticket(house, record, key, limit)
    recipe = auto.resolved(asked, *known, limit, key, lambda recipe: house.runner.needed(recipe, ticket, count))
    record |= {"preset": recipe.preset or "none", "recipe": recipe.model_dump(mode="json", exclude=PRIVATE)}
    return recipe


def order(
    house: Parts,
    asked: schemas.ImageRequest,
    media: str,
    record: dict[str, Any],
    key: Key | None = None,
    *,
    job: bool = False,
) -> Order:
    """The pictures of a request: ``n`` recipes that differ in the seed, and the file they become."""
    output_format, quality = _file(asked, media)
    first = resolved(house, asked, record, key)
    if key:
        key.check(first.preset)
    count = asked.n or 1
    if first.seed + count > schemas.SEEDS:
        raise InvalidRequest(f"the seeds of {count} pictures go beyond {schemas.SEEDS - 1}", field="seed")
    images.check_fits(first.model_dump(mode="json"), output_format)
    images.check_size(final(first), output_format)
    if first.upscale and count * prod(final(first)) > house.settings.max_pixels:
        message = f"{count} pictures of this size have more than the {house.settings.max_pixels} pixels allowed here"
        raise InvalidRequest(message, field="n")
    recipes = [first.model_copy(update={"seed": first.seed + i}) for i in range(count)]
    if asked.user is not None:
        record["user"] = asked.user
    if asked.partial_images is not None and not (asked.stream or job):
        raise InvalidRequest("previews travel in a stream; add stream: true", field="partial_images")
    ticket = _ticket(house, record, key, asked.deadline_ms)
    streamed = media == "image/png" and first.upscale is not None
    return Order(recipes, output_format, quality, asked.partial_images or 0, ticket, streamed=streamed)


def enlargement(
    house: Parts, asked: UpscaleRequest, data: bytes, media: str, record: dict[str, Any], key: Key | None
) -> Order:
    """The enlargement of a caller's own picture."""
    pixels = uploads.opened(data, house.settings.max_pixels / asked.factor**2)
    recipe = asked.resolved(house.settings, house.engine, pixels.shape[1], pixels.shape[0])
    record["recipe"] = recipe.model_dump(mode="json")
    return Order([recipe], ticket=_ticket(house, record, key), pixels=pixels, streamed=media == "image/png")


def _ticket(house: Parts, record: dict[str, Any], key: Key | None, deadline_ms: int | None = None) -> Ticket:
    deadline = None if deadline_ms is None else time.monotonic() + deadline_ms / 1000
    tenant, patience = key.name if key else "", house.settings.max_wait_seconds
    return Ticket(record["request_id"], tenant=tenant, deadline=deadline, patience=patience)


def _file(asked: schemas.ImageRequest, media: str) -> tuple[images.Format, int]:
    """Format and quality; a field that the Accept header or the format makes void is refused."""
    formats: dict[str, images.Format] = {"image/png": "png", "image/webp": "webp", "image/jpeg": "jpeg"}
    output_format = formats.get(media) or asked.output_format or "png"
    if asked.output_format not in (None, output_format):
        raise InvalidRequest(f"the Accept header asks for {output_format}", field="output_format")
    if media != accept.JSON and asked.n not in (None, 1):
        if media == accept.EVENTS:
            raise InvalidRequest("a stream shows one picture", field="n")
        raise InvalidRequest(f"{media} holds one picture; ask for application/json to get {asked.n}", field="n")
    if asked.output_compression is not None and output_format == "png":
        raise InvalidRequest("png is lossless; output_compression is for webp and jpeg", field="output_compression")
    return output_format, 100 if asked.output_compression is None else asked.output_compression


def as_json(order: Order, made: list[Made]) -> Response:
    """OpenAI's answer."""
    width, height = final(order.recipes[0])
    data = [
        schemas.Picture(b64_json=base64.b64encode(one.data).decode(), recipe=one.recipe, timings=one.timings)
        for one in made
    ]
    answer = schemas.ImageResponse(
        created=int(time.time()), size=f"{width}x{height}", output_format=order.output_format, data=data
    )
    return Response(answer.model_dump_json(), media_type=accept.JSON)


def as_file(made: Made, media: str) -> Response:
    """The file of one picture; its recipe is inside."""
    return Response(made.data, media_type=media, headers={"x-darkroom-seed": str(made.recipe.seed)})
