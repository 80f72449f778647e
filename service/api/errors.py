"""Errors to HTTP. On /v1 the shape is OpenAI's: {"error": {"message", "type", "param", "code"}}."""

import logging
import math
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from service.errors import DarkroomError, InvalidRequest

log = logging.getLogger("darkroom")

TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_exceeded"}


class BodyTooLarge(InvalidRequest):
    """More bytes than the service reads."""

    status = 413
    code = "body_too_large"


class UnsupportedMediaType(InvalidRequest):
    """The body says that it is something else than JSON."""

    status = 415
    code = "unsupported_media_type"


class NotAcceptable(InvalidRequest):
    """No representation that the Accept header allows."""

    status = 406
    code = "not_acceptable"


class Problem(BaseModel):
    """What went wrong, in OpenAI's words."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorBody(BaseModel):
    """The body of every answer that is not a success."""

    error: Problem


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of a route that can answer with these errors; the last ones every route can."""
    return {status: {"model": ErrorBody, "description": HTTPStatus(status).phrase} for status in (*statuses, 405, 500)}


def body(status: int, message: str, code: str, param: str | None = None) -> dict[str, Any]:
    """OpenAI's words for an error. Words of the caller come back shortened."""
    kind = TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    problem = Problem(message=message[:1000], type=kind, param=param and param[:200], code=code)
    return ErrorBody(error=problem).model_dump()


def render(status: int, message: str, code: str, param: str | None = None, headers: Any = None) -> JSONResponse:
    """An error as an answer."""
    return JSONResponse(body(status, message, code, param), status, headers=headers)


async def on_darkroom_error(request: Request, error: Exception) -> Response:
    """The one table from errors.py to HTTP."""
    assert isinstance(error, DarkroomError)
    request.state.record["outcome"] = error.code
    headers = {"retry-after": str(math.ceil(error.retry_after))} if error.retry_after is not None else None
    return render(error.status, error.message, error.code, error.field, headers)


async def on_http_error(request: Request, error: Exception) -> Response:
    """Starlette's own: no such path, no such method."""
    assert isinstance(error, HTTPException)
    headers, phrase = error.headers, HTTPStatus(error.status_code).phrase
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED and "route" in request.scope:
        operations = request.app.openapi()["paths"][request.scope["route"].path_format]  # Starlette's header knows one
        headers = {"allow": ", ".join(sorted(map(str.upper, operations)))}
    code = phrase.lower().replace(" ", "_").replace("'", "")
    message = f"{phrase}: {request.method} {request.url.path}"
    return render(error.status_code, message, code, headers=headers)


def install(app: FastAPI) -> None:
    """Render every error of an app."""
    app.add_exception_handler(DarkroomError, on_darkroom_error)
    app.add_exception_handler(HTTPException, on_http_error)
