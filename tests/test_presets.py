"""Every preset is data that resolves: it names samplers, schedules, methods and options that exist."""

import tomllib

import numpy as np
import pytest

from service.errors import InvalidRequest
from service.recipe import PRESETS, Overrides, Recipe, load_presets, resolve
from tests.recipes import DISTILLED, FAMILY, POSTCARD, SD15

NAMES = sorted(load_presets())


def suited(name: str, **fields: object) -> Recipe:
    """The preset on the last model that it suits: the few-step ones come after the general ones."""
    model = next(model for model in reversed(FAMILY.values()) if load_presets()[name].suits(model))
    body = {"prompt": "a", "seed": 0, "preset": name, "model": model.name} | fields
    return resolve(Overrides.parse(body), load_presets(), FAMILY, "gaussian", "fp32")


def test_the_first_five_are_offered_for_postcard() -> None:
    offered = {name for name, preset in load_presets().items() if preset.suits(POSTCARD)}
    general = {"fast", "balanced", "quality", "ays", "eps-scaled", "diverse"}
    assert offered == general | {"ays-postcard", "eps-scaled-postcard"}


def test_postcards_student_has_presets_of_its_own_steps() -> None:
    offered = {name for name, preset in load_presets().items() if preset.fixed and preset.suits(DISTILLED)}
    assert offered == {"flash-1step", "flash-2step", "flash-3step"}
    for name in offered:
        assert {call.network for call in suited(name).calls(DISTILLED)} == {"unet_student"}


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_resolves_runs_and_says_what_it_is_for(name: str) -> None:
    preset = load_presets()[name]
    assert preset.title
    assert preset.description.endswith(".")
    assert preset.evidence.startswith(("source: ", "measured: "))
    recipe = suited(name)
    assert recipe.preset == name
    held = recipe.guidance_options.get("zero_steps", 0)
    calls = recipe.calls(FAMILY[recipe.model])
    assert len(calls) == recipe.num_inference_steps - held


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_sets_no_field_of_the_request(name: str) -> None:
    given = set(tomllib.loads((PRESETS / f"{name}.toml").read_text())["recipe"])
    assert not given & {"prompt", "seed", "model", "model_digest", "engine", "precision", "preset", "width", "height"}


# timesteps of the published few-step recipes
TIMESTEPS = {
    "lightning-4step": [999, 749, 499, 249],
    "dmd2-4step": [999, 749, 499, 249],
    "dmd2-1step": [399],
    "hyper-sd-1step": [800],
    "lcm": [999, 759, 499, 259],
    "tcd": [999, 759, 499, 259],
    "flash-1step": [999],
    "flash-2step": [999, 499],
    "flash-3step": [999, 666, 332],
}


@pytest.mark.parametrize("name", TIMESTEPS)
def test_few_step_presets_run_at_the_published_timesteps(name: str) -> None:
    recipe = suited(name)
    calls = recipe.calls(FAMILY[recipe.model])
    np.testing.assert_allclose([call.timestep for call in calls], TIMESTEPS[name], atol=1e-9)
    assert {call.rows for call in calls} == {("cond",)}


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"schedule": "ays"}, "schedule"),
        ({"num_inference_steps": 6}, "num_inference_steps"),
        ({"sigmas": [9, 0]}, "sigmas"),
    ],
)
def test_a_network_trained_on_its_steps_takes_no_other(fields: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidRequest, match="trained on its own steps") as caught:
        suited("lightning-4step", **fields)
    assert caught.value.field == field


def test_a_fixed_preset_echoes_as_a_request_for_itself() -> None:
    recipe = suited("lightning-4step")
    assert suited("lightning-4step", **recipe.model_dump(mode="json")) == recipe


def test_a_preset_of_another_family_is_refused_with_those_on_offer() -> None:
    body = Overrides(prompt="a", seed=0, preset="lightning-4step", model="sd15")
    with pytest.raises(InvalidRequest, match=r"which has: .*balanced.*sd15-ays") as caught:
        resolve(body, load_presets(), FAMILY, "gaussian", "fp32")
    assert caught.value.field == "preset"
    assert load_presets()["sd15"].suits(SD15)
