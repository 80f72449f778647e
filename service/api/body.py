"""Request bodies, strictly: bounded while they stream, one meaning per JSON text, every refusal names its field."""

import json
import math
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel

from service.api.errors import BodyTooLarge, UnsupportedMediaType
from service.errors import InvalidRequest
from service.recipe import Overrides

PICTURES = ("image/png", "image/jpeg", "image/webp")

Schema = TypeVar("Schema", bound=Overrides)


def documented(schema: type[BaseModel]) -> dict[str, Any]:
    """The request body of a route that calls ``read``, for OpenAPI."""
    reference = {"$ref": f"#/components/schemas/{schema.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": reference}}}}


def documented_picture(schema: type[BaseModel], headers: list[dict[str, Any]]) -> dict[str, Any]:
    """Body, query and headers of a route calling ``picture``, for OpenAPI; a query's lists are separated by commas."""
    content = {media: {"schema": {"type": "string", "format": "binary"}} for media in PICTURES}
    fields = schema.model_json_schema()
    parameters = [
        {"name": name, "in": "query", "required": name in fields["required"], "explode": False}
        | {"schema": {**described, **described.pop("anyOf", [{}])[0]}}  # not the null, which a query cannot say
        for name, described in fields["properties"].items()
    ]
    return {"requestBody": {"required": True, "content": content}, "parameters": parameters + headers}


async def picture(request: Request, max_bytes: int) -> bytes:
    """The body of ``request``, said to be a picture."""
    if _kind(request) not in PICTURES:
        raise UnsupportedMediaType(f"send the picture itself as the body, with a Content-Type of {', '.join(PICTURES)}")
    return await _bytes(request, max_bytes)


async def read(request: Request, schema: type[Schema], max_bytes: int) -> Schema:
    """The body of ``request`` as ``schema``."""
    if _kind(request) != "application/json":
        raise UnsupportedMediaType("send JSON with the header Content-Type: application/json")
    return schema.parse(parse(await _bytes(request, max_bytes)))


def _kind(request: Request) -> str:
    return request.headers.get("content-type", "").split(";")[0].strip().lower()


async def _bytes(request: Request, limit: int) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise BodyTooLarge(f"the body is larger than {limit} bytes")
    return bytes(body)


def parse(data: bytes) -> dict[str, Any]:
    """RFC 8259 text to one object; duplicate names, NaN, overflowing numbers and broken Unicode are refused."""
    try:
        value = json.loads(data.decode(), object_pairs_hook=_object, parse_int=_int, parse_float=_float)
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"the body is not UTF-8: {error.reason} at byte {error.start}") from error
    except json.JSONDecodeError as error:
        message = f"the body is not JSON: {error.msg} at line {error.lineno} column {error.colno}"
        raise InvalidRequest(message) from error
    except RecursionError as error:
        raise InvalidRequest("the body is nested too deeply") from error
    if not isinstance(value, dict):
        raise InvalidRequest("the body must be a JSON object")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        complaint = "is given twice" if name in found else _complaint(value)
        if complaint:
            raise InvalidRequest(f"{_shown(name)} {complaint}", field=_shown(name))
        found[name] = value
    return found


def _complaint(value: Any) -> str | None:
    """What no field may hold, although Python's parser lets it pass."""
    if isinstance(value, list):
        return next(filter(None, map(_complaint, value)), None)
    if isinstance(value, float) and not math.isfinite(value):
        return "is not a finite number"
    if isinstance(value, str) and ("\0" in value or any("\ud800" <= char <= "\udfff" for char in value)):
        return "holds NUL or half of a surrogate pair"
    return None


def number(name: str, text: str) -> Any:
    """The value of a query parameter: a number, or several in a list."""
    try:
        values = json.loads(f"[{text[:1000]}]", parse_int=_int, parse_float=_float)
    except (ValueError, RecursionError):
        raise InvalidRequest(f"{_shown(name)} is no number", field=_shown(name)) from None
    return values[0] if len(values) == 1 else tuple(values)


def _int(text: str) -> float:
    """Digits without end would take quadratic time, and no field is that large."""
    return int(text) if len(text) <= 30 else math.inf


def _float(text: str) -> float:
    """JSON has one kind of number: 20.0 is as whole as 20."""
    value = float(text)
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


def _shown(name: str) -> str:
    """A name from outside, fit for an answer."""
    return name[:100].encode("ascii", "backslashreplace").decode()
