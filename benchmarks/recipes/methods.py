"""What is compared: every preset for the model, and variants of them, each at fixed numbers of network calls."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from service.engines.contract import Engine
from service.errors import InvalidRequest
from service.recipe import Overrides, Preset, Recipe, load_presets, resolve

CALLS = (3, 5, 8, 10, 15, 20, 30, 50)  # of a preset
FEW = (5, 8, 10, 15, 20)  # of a variant: claims are about few calls
DETERMINISTIC = frozenset({"euler", "heun", "dpmpp_2m", "unipc", "deis"})  # these solve the ODE
CORRECTIONS: dict[str, Any] = {"epsilon_scaling": None, "time_shift": None, "cads": None}
CONVERGED = "converged"  # the method that others' errors refer to: the default preset in very many steps
STOCHASTIC = "2M SDE, trailing"  # the variant that is also looked at in many calls
STEPS = 200  # and in half as many, whose error bounds its own
DATA_VARIANCE = 0.99  # of Postcard's latents, mean over 120 encoded renders; single ones have 0.3 to 3.4

EULER: dict[str, Any] = {"preset": "balanced", "sampler": "euler"}
VARIANTS: dict[str, dict[str, Any]] = {
    "2M, karras": {"preset": "balanced", "schedule": "karras"},
    "2M, linspace": {"preset": "balanced", "schedule": "linspace"},
    STOCHASTIC: {"preset": "balanced", "sampler": "dpmpp_2m_sde"},
    "UniPC, trailing": {"preset": "balanced", "sampler": "unipc"},
    "Euler, trailing": EULER,
    "Euler, ays": EULER | {"schedule": "ays"},
    "Euler, karras": EULER | {"schedule": "karras"},
    "Euler, linspace": EULER | {"schedule": "linspace"},
    "Euler, eps / 1.017": EULER | {"epsilon_scaling": {"scale": 1.017}},  # CIFAR-10, Ning et al. 2024
    "Euler, time shift": EULER | {"time_shift": {"data_variance": DATA_VARIANCE, "window": 80, "cutoff": 300.0}},
    "balanced, guided everywhere": {"preset": "balanced", "guidance_interval": None},
    "balanced, never guided": {"preset": "balanced", "guidance_interval": None, "guidance_scale": 1.0},
    "scale 7 everywhere": {"preset": "balanced", "guidance_scale": 7.0, "guidance_interval": None},
    "scale 7 in (0.28, 5.42]": {"preset": "balanced", "guidance_scale": 7.0, "guidance_interval": (0.28, 5.42)},
}


class Method(NamedTuple):
    """A row of the tables: its recipe (no prompt, seed 0) at every number of calls where it has one."""

    name: str
    chosen: int  # calls that its author chose
    recipes: dict[int, Recipe]
    preset: bool


def methods(engine: Engine) -> list[Method]:
    """Presets first, then the converged one, then variants. Some are one method under two names: see ``distinct``."""
    model = next(iter(engine.models.values()))
    suiting = [preset for preset in load_presets().values() if preset.suits(model)]
    found = [_preset(engine, preset) for preset in suiting]
    exact = {n: _resolved(engine, {"preset": "balanced", "num_inference_steps": n}) for n in (STEPS // 2, STEPS)}
    found.append(Method(CONVERGED, 0, exact, False))
    wanted = VARIANTS | {
        f"{preset.name} without {name}": {"preset": preset.name, name: None}
        for preset in suiting
        for name in CORRECTIONS
        if preset.recipe.given().get(name)
    }
    for name, fields in wanted.items():
        recipes = {calls: fitted(engine, fields, calls) for calls in (CALLS if name == STOCHASTIC else FEW)}
        found.append(Method(name, 0, {calls: recipe for calls, recipe in recipes.items() if recipe}, False))
    return found


def _preset(engine: Engine, preset: Preset) -> Method:
    """A preset at its own number of calls and, if its steps may be changed, at all others."""
    own = _resolved(engine, {"preset": preset.name})
    chosen = calls_of(engine, own)
    free = not preset.fixed and "sigmas" not in preset.recipe.given()
    recipes = {calls: fitted(engine, {"preset": preset.name}, calls) for calls in CALLS if free}
    kept = {calls: recipe for calls, recipe in recipes.items() if recipe} | {chosen: own}
    return Method(preset.name, chosen, dict(sorted(kept.items())), True)


def distinct(found: Iterable[Method]) -> list[Method]:
    """Without those whose recipes are an earlier one's: presets that differ in their calls alone, and the like."""
    first: dict[tuple[str, ...], Method] = {}
    for method in found:
        shared = {calls: recipe for calls, recipe in method.recipes.items() if calls in FEW} or method.recipes
        first.setdefault(tuple(key(recipe) for recipe in shared.values()), method)
    return list(first.values())


def fitted(engine: Engine, fields: Mapping[str, Any], calls: int) -> Recipe | None:
    """The recipe with the most steps that makes at most so many network calls; None where it is refused."""
    for steps in range(calls, 0, -1):
        try:
            recipe = _resolved(engine, {**fields, "num_inference_steps": steps})
        except InvalidRequest:
            return None
        if calls_of(engine, recipe) <= calls:
            return recipe
    return None


def solves(recipe: Recipe, converged: Recipe) -> bool:
    """Whether the recipe is a solver of the converged one's ODE, corrected or not; SDEs and CADS are not."""
    same = ("guidance_method", "guidance_options", "guidance_scale", "guidance_interval")
    return (
        recipe.sampler in DETERMINISTIC
        and recipe.cads is None
        and all(getattr(recipe, name) == getattr(converged, name) for name in same)
    )


def calls_of(engine: Engine, recipe: Recipe) -> int:
    return len(recipe.calls(engine.models[recipe.model]))


def key(recipe: Recipe) -> str:
    """Sixteen hex digits over everything that makes the picture, prompt and seed apart."""
    content = recipe.model_dump_json(exclude={"preset", "prompt", "seed"})
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _resolved(engine: Engine, fields: Mapping[str, Any]) -> Recipe:
    model = next(iter(engine.models))
    asked = Overrides.parse({"model": model, "prompt": "", "seed": 0, **fields})
    return resolve(asked, load_presets(), engine.models, engine.name, engine.precision)
