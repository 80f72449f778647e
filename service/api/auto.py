"""``"preset": "auto"``: the best measured preset that a deadline leaves time for."""

import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping

from service.api.schemas import SEEDS, RecipeRequest
from service.engines.contract import Engine
from service.errors import InvalidRequest
from service.keys import Key
from service.recipe import AUTO, Preset, Recipe
from service.settings import Settings

SLACK = 1.04  # admission looks again, a moment later

Needed = Callable[[Recipe], float | None]  # the deadline that it needs, in seconds; None: not known yet


def resolved(
    asked: RecipeRequest,
    settings: Settings,
    engine: Engine,
    presets: Mapping[str, Preset],
    deadline_ms: int | None,
    key: Key | None,
    needed: Needed,
) -> Recipe:
    """The recipe of a request, whose preset may be left to the service, among those that the key allows.

    Of the measured presets that fit the deadline, the one of the smallest Fréchet distance; where none fits the
    quickest, which admission then refuses; where nothing is known, or without a deadline, the model's default.
    """
    if asked.preset != AUTO:
        return asked.resolved(settings, engine, presets)
    seed = secrets.randbelow(SEEDS) if asked.seed is None else asked.seed
    asked = asked.model_copy(update={"preset": None, "preset_auto": True, "seed": seed})
    default = asked.resolved(settings, engine, presets)
    if deadline_ms is None:
        return default
    rated = _rated(preset for preset in presets.values() if key is None or key.allows(preset.name))
    priced = [(recipe, needed(recipe)) for recipe in _recipes(asked, settings, engine, presets, rated)]
    known = [(recipe, seconds) for recipe, seconds in priced if seconds is not None]
    fitting = [recipe for recipe, seconds in known if seconds * SLACK <= deadline_ms / 1000]
    quickest = min(known, key=lambda pair: pair[1])[0] if known else default
    return next(iter(fitting), quickest)


def _rated(presets: Iterable[Preset]) -> list[str]:
    """Names of the measured presets, the best first."""
    measured = [(preset.frechet_distance, preset.name) for preset in presets if preset.frechet_distance is not None]
    return [name for _, name in sorted(measured)]


def _recipes(
    asked: RecipeRequest, settings: Settings, engine: Engine, presets: Mapping[str, Preset], names: Iterable[str]
) -> Iterator[Recipe]:
    """What the request becomes with each of these presets, leaving out those that it or its model excludes."""
    for name in names:
        try:
            yield asked.model_copy(update={"preset": name}).resolved(settings, engine, presets)
        except InvalidRequest:
            continue
