"""Every preset is data that resolves: it names samplers, schedules and options that exist."""

import tomllib

import pytest

from service.diffusion.explain import explain
from service.recipe import PRESETS, Overrides, load_presets, resolve
from tests.recipes import MODELS

NAMES = sorted(load_presets())


def test_the_first_five_are_there() -> None:
    assert {"fast", "balanced", "quality", "ays", "eps-scaled"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_resolves_and_says_what_it_is_for(name: str) -> None:
    preset = load_presets()[name]
    assert preset.title
    assert preset.description.endswith(".")
    assert preset.evidence.startswith(("source: ", "measured: "))
    recipe = resolve(Overrides(prompt="a", seed=0, preset=name), load_presets(), MODELS, "gaussian", "fp32")
    assert recipe.preset == name
    parts = recipe.parts(MODELS["postcard"])
    assert len(explain(parts.sampler, recipe.sigmas, parts.parameterization, parts.guidance)) >= len(recipe.sigmas) - 1


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_sets_no_field_of_the_request(name: str) -> None:
    given = set(tomllib.loads((PRESETS / f"{name}.toml").read_text())["recipe"])
    assert not given & {"prompt", "seed", "model", "model_digest", "engine", "precision", "preset", "width", "height"}
