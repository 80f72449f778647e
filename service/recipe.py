"""Preset + request -> recipe: fully resolved, echoed to the caller, and itself a valid request."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from math import inf
from typing import Any, TypeVar

import numpy as np

from service.diffusion.combinations import refuse_idle, refuse_impossible
from service.diffusion.guidance import GUIDANCE
from service.diffusion.options import bound, validated
from service.diffusion.samplers import SAMPLERS
from service.diffusion.schedules import SCHEDULES, between, check
from service.engines.contract import ModelDescription
from service.enlargement import Enlargement, settled
from service.errors import InvalidRequest, UnknownModel
from service.fields import (
    AUTO,
    DEFAULTS,
    EXPLICIT,
    PRESETS,
    Overrides,
    Preset,
    Recipe,
    load_presets,
    parameterization,
    parsed,
)

__all__ = [
    "AUTO",
    "EXPLICIT",
    "PRESETS",
    "Overrides",
    "Preset",
    "Recipe",
    "load_presets",
    "merge",
    "parameterization",
    "resolve",
]

T = TypeVar("T")
GUIDED = ("negative_prompt", "guidance_interval", "guidance_scale", "guidance_method")
OFF = {name: DEFAULTS[name] for name in GUIDED} | {"guidance_options": validated(GUIDANCE["cfg"], {}, "")}
STEPS = ("schedule", "schedule_options", "num_inference_steps", "sigmas", "zero_terminal_snr")


def resolve(
    overrides: Overrides,
    presets: Mapping[str, Preset],
    models: Mapping[str, ModelDescription],
    engine: str,
    precision: str,
    *,
    max_steps: int = 200,
    max_pixels: float = 2**25,
) -> Recipe:
    """Preset + overrides -> Recipe, pure. The caller draws the seed where the request has none."""
    given = overrides.given()
    model = _model(given, models)
    preset = _preset(given, model, presets)
    for name in ("prompt", "seed"):
        if name not in given:
            raise InvalidRequest(f"{name} is missing", field=name)
    facts = {"model": model.name, "model_digest": model.digest, "engine": engine, "precision": precision}
    _agree(given, facts)
    own = DEFAULTS | {"network": model.denoiser} | _size(given, model)
    values = own | merge(preset.recipe.given(), given) | {"preset": preset.name} | facts
    if preset.levels and values.keys().isdisjoint({"schedule", "sigmas"}):
        steps = min(values.get("num_inference_steps", len(preset.levels) - 1), max_steps)  # more are refused below
        values["sigmas"] = between(preset.levels, steps).tolist()
    _check_networks(values, model)
    if values["upscale"] is not None:
        values["upscale"] = settled(values["upscale"], model, values["width"], values["height"], max_pixels)
    values["guidance_options"] = _options("guidance_method", "guidance_options", values, GUIDANCE)
    values |= _schedule(values, model, max_steps)
    _keep_to_trained_steps(own, values, given, model, presets)
    values["sampler_options"] = _sampler_options(values)
    refuse_impossible(values, model.noise_schedule.kind, model.noise_schedule.prediction)
    recipe = Recipe(**values)
    calls = recipe.calls(model)
    refuse_idle(values, calls, parameterization(model, recipe.zero_terminal_snr))
    return recipe if any("uncond" in call.rows for call in calls) else _unguided(recipe, given)


def stored(
    fields: Mapping[str, Any],
    presets: Mapping[str, Preset],
    models: Mapping[str, ModelDescription],
    engine: str,
    precision: str,
) -> Recipe | Enlargement:
    """What a job has kept, unless it cannot be made here any more."""
    if "prompt" in fields:
        steps = fields["num_inference_steps"]
        return resolve(Overrides.parse(fields), presets, models, engine, precision, max_steps=steps, max_pixels=inf)
    facts = {"model_digest": _model(fields, models).digest, "engine": engine, "precision": precision}
    _agree(fields, facts)
    return parsed(Enlargement, fields)


def _agree(given: Mapping[str, Any], facts: Mapping[str, str]) -> None:
    """What is given of where it runs must be so here."""
    for name, fact in facts.items():
        if given.get(name, fact) != fact:
            raise InvalidRequest(f"{name} is {given[name]!r} in the request but {fact!r} here", field=name)


def _model(given: Mapping[str, Any], models: Mapping[str, ModelDescription]) -> ModelDescription:
    name = given.get("model", next(iter(models)) if len(models) == 1 else "")
    if name in models:
        return models[name]
    raise UnknownModel(f"there is no model {name!r}; known: {', '.join(sorted(models))}", field="model")


def _preset(given: Mapping[str, Any], model: ModelDescription, presets: Mapping[str, Preset]) -> Preset:
    """The named preset, or the model's default; not one that is for other models."""
    preset = _known("preset", given.get("preset", model.default_preset), presets)
    if not preset.suits(model):
        offered = ", ".join(name for name, other in presets.items() if other.suits(model))
        message = f"preset {preset.name} is not for {model.name}, which has: {offered}"
        raise InvalidRequest(message, field="preset")
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


def _check_networks(values: Mapping[str, Any], model: ModelDescription) -> None:
    for field, roles in model.choices.items():
        if values[field] is not None and values[field] not in roles:
            message = f"{model.name} has no {field} {values[field]!r}; known: {', '.join(roles) or 'none'}"
            raise InvalidRequest(message, field=field)


def _keep_to_trained_steps(
    own: dict[str, Any],
    values: Mapping[str, Any],
    given: Mapping[str, Any],
    model: ModelDescription,
    presets: Mapping[str, Preset],
) -> None:
    """A few-step network runs at the steps of a fixed preset: one that names it, or its model's default."""
    chosen, network = presets[values["preset"]], values["network"]
    if chosen.fixed:
        trained = own | chosen.recipe.given()
        sigmas = _schedule(trained, model)["sigmas"]
        same = network == trained["network"] and len(values["sigmas"]) == len(sigmas)
        if not same or not np.allclose(values["sigmas"], sigmas, rtol=1e-9, atol=0):
            changed = (name for name in ("network", *STEPS) if name in given and given[name] != trained.get(name))
            field = next(changed, "schedule")
            message = f"preset {chosen.name} is for a network trained on its own steps; leave {field} out"
            raise InvalidRequest(message, field=field)
        return
    fixed = [preset for preset in presets.values() if preset.fixed and preset.suits(model)]
    home = model.default_preset if network == model.denoiser else None
    names = [preset.name for preset in fixed if preset.recipe.network == network or preset.name == home]
    if names:
        message = f"{network} of {model.name} was trained on its own steps; use preset {' or '.join(names)}"
        raise InvalidRequest(message, field="network" if "network" in given else "preset")


def _unguided(recipe: Recipe, given: Mapping[str, Any]) -> Recipe:
    """The recipe of a run without guidance: what a preset says of guidance is dropped, what a request says refused."""
    why, cure = f"no network call lies in guidance_interval {recipe.guidance_interval}", "widen guidance_interval"
    if recipe.guidance_scale == 1:
        why, cure = "guidance_scale 1 is off", "raise guidance_scale"
    for name, neutral in OFF.items():
        if name in given and getattr(recipe, name) != neutral:
            raise InvalidRequest(f"{name} has nothing to act on: {why}; {cure} or leave {name} out", field=name)
    return recipe.model_copy(update=OFF)


def _schedule(values: Mapping[str, Any], model: ModelDescription, max_steps: float = inf) -> dict[str, Any]:
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
