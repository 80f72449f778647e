"""OpenAPI that is true: bodies are read by hand, so their schemas are added by hand, with the names known here."""

from collections.abc import Mapping
from typing import Any, get_args

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from service.api.deps import Parts
from service.api.errors import ErrorBody
from service.api.schemas import CompletedEvent, ExplainRequest, ImageRequest, JobEventData, PartialEvent, RecipeRequest
from service.diffusion.guidance import GUIDANCE
from service.diffusion.samplers import SAMPLERS
from service.diffusion.schedules import SCHEDULES
from service.recipe import AUTO, EXPLICIT

Kinds = Mapping[str, type[BaseModel]]  # of the data of events, by name

EVENTS: Kinds = {
    "image_generation.partial_image": PartialEvent,
    "image_generation.completed": CompletedEvent,
    "error": ErrorBody,
}
JOB_EVENTS: Kinds = dict.fromkeys(get_args(JobEventData.model_fields["type"].annotation), JobEventData)


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
    schemas = document["components"]["schemas"]
    for model in (ImageRequest, ExplainRequest, PartialEvent, CompletedEvent, JobEventData):
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= schema.pop("$defs", {})
        schemas[model.__name__] = _known_here(schema, parts) if issubclass(model, RecipeRequest) else schema
    schemas |= {"Event": _event(EVENTS), "JobEvent": _event(JOB_EVENTS)}
    if parts.keys.required:
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}]
    for operation in (operation for path in document["paths"].values() for operation in path.values()):
        operation["responses"].pop("422", None)  # FastAPI's own, which a path parameter of any text cannot cause
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    return document


def _event(kinds: Kinds) -> dict[str, Any]:
    """One server-sent event; its data is JSON."""
    data = [{"$ref": f"#/components/schemas/{name}"} for name in sorted({kind.__name__ for kind in kinds.values()})]
    described = {"type": "string", "contentMediaType": "application/json", "contentSchema": {"anyOf": data}}
    properties = {"event": {"enum": list(kinds)}, "data": described}
    return {"type": "object", "required": list(properties), "properties": properties}


def _networks(parts: Parts) -> dict[str, list[Any]]:
    """The roles that a recipe may name in each of its fields for networks."""
    choices = [model.choices for model in parts.engine.models.values()]
    fields = ("network", "initial_network", "residual_network")
    return {field: sorted({role for each in choices for role in each[field]}) for field in fields}


def _known_here(schema: dict[str, Any], parts: Parts) -> dict[str, Any]:
    """Names and bounds that depend on this service's models, presets and settings."""
    sizes = {size for model in parts.engine.models.values() for size in model.sizes}
    names: dict[str, list[Any]] = {
        "model": list(parts.engine.models),
        "model_digest": [model.digest for model in parts.engine.models.values()],
        "engine": [parts.engine.name],
        "precision": [parts.engine.precision],
        **_networks(parts),
        "preset": [p.name for p in parts.presets.values() if any(map(p.suits, parts.engine.models.values()))] + [AUTO],
        "sampler": list(SAMPLERS),
        "schedule": [*SCHEDULES, EXPLICIT],
        "guidance_method": list(GUIDANCE),
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
