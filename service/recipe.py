"""Preset + request -> recipe: fully resolved, echoed to the caller, and itself a valid request."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np

from service.diffusion.combinations import refuse_impossible
from service.diffusion.guidance import GUIDANCE
from service.diffusion.options import bound, validated
from service.diffusion.samplers import SAMPLERS
from service.diffusion.schedules import SCHEDULES, check
from service.engines.contract import ModelDescription
from service.errors import InvalidRequest, UnknownModel
from service.fields import (
    DEFAULTS,
    EXPLICIT,
    PRESETS,
    Overrides,
    Parts,
    Preset,
    Recipe,
    load_presets,
    parameterization,
)

__all__ = [
    "EXPLICIT",
    "PRESETS",
    "Overrides",
    "Parts",
    "Preset",
    "Recipe",
    "load_presets",
    "merge",
    "parameterization",
    "resolve",
]

T = TypeVar("T")


def resolve(
    overrides: Overrides,
    presets: Mapping[str, Preset],
    models: Mapping[str, ModelDescription],
    engine: str,
    precision: str,
    *,
    max_steps: int = 200,
) -> Recipe:
    """Preset + overrides -> Recipe, pure. The caller draws the seed where the request has none."""
    given = overrides.given()
    model = _model(given, models)
    preset = _preset(given, model, presets)
    for name in ("prompt", "seed"):
        if name not in given:
            raise InvalidRequest(f"{name} is missing", field=name)
    facts = {"model": model.name, "model_digest": model.digest, "engine": engine, "precision": precision}
    for name, fact in facts.items():
        if given.get(name, fact) != fact:
            raise InvalidRequest(f"{name} is {given[name]!r} in the request but {fact!r} here", field=name)
    values = DEFAULTS | merge(preset.recipe.given(), given) | {"preset": preset.name} | facts
    values |= _size(given, model)
    values["guidance_options"] = _options("guidance_method", "guidance_options", values, GUIDANCE)
    values |= _schedule(values, model, max_steps)
    values["sampler_options"] = _sampler_options(values)
    refuse_impossible(values, model.noise_schedule.kind, model.noise_schedule.prediction)
    return Recipe(**values)


def _model(given: Mapping[str, Any], models: Mapping[str, ModelDescription]) -> ModelDescription:
    name = given.get("model", next(iter(models)) if len(models) == 1 else "")
    if name in models:
        return models[name]
    raise UnknownModel(f"there is no model {name!r}; known: {', '.join(sorted(models))}", field="model")


def _preset(given: Mapping[str, Any], model: ModelDescription, presets: Mapping[str, Preset]) -> Preset:
    """The named preset, or the model's default; not one that is for other models, nor a change to a fixed one."""
    preset = _known("preset", given.get("preset", model.default_preset), presets)
    if not preset.suits(model):
        offered = ", ".join(name for name, other in presets.items() if other.suits(model))
        message = f"preset {preset.name} is not for {model.name}, which has: {offered}"
        raise InvalidRequest(message, field="preset")
    trained = preset.recipe.given()
    for name in ("schedule", "num_inference_steps") if preset.fixed else ():
        if given.get(name, None if "sigmas" in given else trained[name]) != trained[name]:
            message = f"preset {preset.name} is for a network trained on its own steps; leave {name} and sigmas out"
            raise InvalidRequest(message, field=name if name in given else "sigmas")
    return preset


def merge(preset: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """The request's fields replace the preset's; what depended on a replaced field goes with it."""
    dependants = {
        "sampler": ("sampler_options",),
        "schedule": ("schedule_options", "sigmas"),
        "num_inference_steps": ("sigmas",),
        "sigmas": ("schedule", "schedule_options", "num_inference_steps"),
        "guidance_method": ("guidance_options",),
    }
    dropped = {name for field, names in dependants.items() if field in given for name in names}
    return {name: value for name, value in preset.items() if name not in dropped} | given


def _size(given: Mapping[str, Any], model: ModelDescription) -> dict[str, int]:
    width, height = given.get("width", model.sizes[0][0]), given.get("height", model.sizes[0][1])
    if (width, height) in model.sizes:
        return {"width": width, "height": height}
    nearest = min(model.sizes, key=lambda size: abs(size[0] - width) + abs(size[1] - height))
    field = "width" if width != nearest[0] else "height"
    message = f"{model.name} does not serve {width}x{height}; the nearest size it serves is {nearest[0]}x{nearest[1]}"
    raise InvalidRequest(message, field=field)


def _schedule(values: Mapping[str, Any], model: ModelDescription, max_steps: int) -> dict[str, Any]:
    """The schedule with its options, steps and sigmas; what is given of these must agree."""
    given, name = values.get("sigmas"), values.get("schedule", EXPLICIT)
    steps = values.get("num_inference_steps", len(given or ()) - 1)
    if steps > max_steps:
        field = "num_inference_steps" if "num_inference_steps" in values else "sigmas"
        raise InvalidRequest(f"{steps} steps are more than the {max_steps} allowed here", field=field)
    if given is None and name == EXPLICIT:
        raise InvalidRequest("schedule 'explicit' needs sigmas", field="sigmas")
    known: dict[str, Callable[..., Any]] = {**SCHEDULES, EXPLICIT: explicit}
    options = _options("schedule", "schedule_options", {**values, "schedule": name}, known)
    with _naming("zero_terminal_snr"):
        levels = parameterization(model, values["zero_terminal_snr"]).noise_levels
    if name != EXPLICIT:
        latent_pixels = values["width"] * values["height"] // model.latent.factor**2
        with _naming("schedule_options"):
            computed = bound(SCHEDULES[name], options, {"latent_pixels": latent_pixels})(levels, steps)
            sigmas = check(computed, levels)
    if given is not None:
        with _naming("sigmas"):
            listed = check(given, levels)
            if len(listed) != steps + 1 or (name != EXPLICIT and not np.allclose(listed, sigmas, rtol=1e-9, atol=0)):
                raise ValueError(f"not those of schedule {name} at {steps} steps; leave one of them out")
            sigmas = listed  # to the last bit
    resolved = {"schedule": name, "schedule_options": options, "num_inference_steps": steps}
    return resolved | {"sigmas": tuple(sigmas.tolist())}


def explicit() -> None:
    """Schedule "explicit" takes no options."""


def _sampler_options(values: Mapping[str, Any]) -> dict[str, Any]:
    """The sampler's options; an order that was not asked for is no higher than the steps allow."""
    options = _options("sampler", "sampler_options", values, SAMPLERS)
    if "order" in options and "order" not in values.get("sampler_options", {}):
        options["order"] = min(options["order"], values["num_inference_steps"])
    return options


def _options(
    field: str, options: str, values: Mapping[str, Any], functions: Mapping[str, Callable[..., Any]]
) -> dict[str, Any]:
    """The options of a named function with its defaults filled in."""
    given = values.get(options, {})
    if field == "guidance_method" and values[field] != "cfg" and "rescale" in given:
        message = f"{values[field]} and rescale exclude each other; leave rescale out or use guidance_method cfg"
        raise InvalidRequest(message, field="guidance_options.rescale")
    return validated(_known(field, values[field], functions), given, options)


def _known(field: str, name: str, table: Mapping[str, T]) -> T:
    if name not in table:
        raise InvalidRequest(f"there is no {field} {name!r}; known: {', '.join(sorted(table))}", field=field)
    return table[name]


@contextmanager
def _naming(field: str) -> Iterator[None]:
    """A ValueError inside becomes an InvalidRequest that names the field."""
    try:
        yield
    except ValueError as error:
        raise InvalidRequest(f"{field}: {error}", field=field) from None
