"""What there is to choose from: models, presets, samplers, schedules."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from service.api.schemas import ModelCard, PresetCard, Presets
from service.diffusion.guidance import GUIDANCE
from service.diffusion.samplers import SAMPLERS
from service.diffusion.schedules import SCHEDULES
from service.engines.contract import Engine
from service.errors import UnknownModel
from service.recipe import AUTO, Preset


def models(engine: Engine) -> list[ModelCard]:
    """Every model of the engine."""
    return [model(engine, name) for name in engine.models]


def model(engine: Engine, name: str) -> ModelCard:
    """One model as OpenAI's object."""
    if name not in engine.models:
        raise UnknownModel(f"there is no model {name[:100]!r}; there are {', '.join(engine.models)}", field="model")
    found = engine.models[name]
    return ModelCard(
        id=name,
        digest=found.digest,
        sizes=[f"{width}x{height}" for width, height in found.sizes],
        default_preset=found.default_preset,
        engine=engine.name,
        precision=engine.precision,
        networks={role: network.entry for role, network in found.networks.items()},
    )


def presets(found: Mapping[str, Preset], engine: Engine) -> Presets:
    """The presets for the models here, and what else a request may name, with the defaults of its options."""
    cards = [
        PresetCard(
            id=name,
            title=preset.title,
            description=preset.description,
            evidence=preset.evidence,
            frechet_distance=preset.frechet_distance,
            models=[model.name for model in engine.models.values() if preset.suits(model)],
            recipe=preset.recipe.model_dump(mode="json", exclude_unset=True),
        )
        for name, preset in found.items()
        if any(map(preset.suits, engine.models.values()))
    ]
    return Presets(
        data=[*cards, _auto(engine)],
        samplers={name: _options(function) for name, function in SAMPLERS.items()},
        schedules={name: _options(function) for name, function in SCHEDULES.items()},
        guidance_methods={name: _options(function) for name, function in GUIDANCE.items()},
    )


def _auto(engine: Engine) -> PresetCard:
    return PresetCard(
        id=AUTO,
        title="Auto",
        description="The best of these that the deadline leaves time for; without one, the model's default.",
        evidence="the smallest frechet_distance of those that fit",
        frechet_distance=None,
        models=list(engine.models),
        recipe={},
    )


def _options(function: Callable[..., Any]) -> dict[str, Any]:
    """The keyword-only parameters of a function with their defaults."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
