"""OpenAPI that is true: bodies are read by hand, so their schemas are added by hand, with the names known here."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from service.api.deps import Parts
from service.api.schemas import ExplainRequest, ImageRequest
from service.diffusion.samplers import SAMPLERS
from service.diffusion.schedules import SCHEDULES
from service.recipe import EXPLICIT


def install(app: FastAPI) -> None:
    """Replace the app's schema by the complete one, built once."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = complete(app, app.state.parts)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def complete(app: FastAPI, parts: Parts) -> dict[str, Any]:
    """FastAPI's schema with the request bodies in it."""
    document = get_openapi(title=app.title, version=app.version, routes=app.routes)
    for request in (ImageRequest, ExplainRequest):
        schema = request.model_json_schema(ref_template="#/components/schemas/{model}")
        document["components"]["schemas"] |= schema.pop("$defs", {})
        document["components"]["schemas"][request.__name__] = _known_here(schema, parts)
    for operation in (operation for path in document["paths"].values() for operation in path.values()):
        operation["responses"].pop("422", None)  # FastAPI's own, which a path parameter of any text cannot cause
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)
    return document


def _known_here(schema: dict[str, Any], parts: Parts) -> dict[str, Any]:
    """Names and bounds that depend on this service's models, presets and settings."""
    sizes = {size for model in parts.engine.models.values() for size in model.sizes}
    names: dict[str, list[Any]] = {
        "model": list(parts.engine.models),
        "model_digest": [model.digest for model in parts.engine.models.values()],
        "engine": [parts.engine.name],
        "precision": [parts.engine.precision],
        "preset": list(parts.presets),
        "sampler": list(SAMPLERS),
        "schedule": [*SCHEDULES, EXPLICIT],
        "size": ["auto", *(f"{width}x{height}" for width, height in sizes)],
        "width": sorted({width for width, _ in sizes}),
        "height": sorted({height for _, height in sizes}),
    }
    properties = schema["properties"]
    for name, values in names.items():
        properties[name] = {**properties[name], "enum": [*values, None]}
    for name in ("prompt", "negative_prompt"):
        properties[name]["maxLength"] = parts.settings.max_prompt_chars
    properties["num_inference_steps"]["maximum"] = parts.settings.max_steps
    return schema
