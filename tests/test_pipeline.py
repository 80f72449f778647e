"""The whole pipeline against diffusers' own: same weights, same noise, same picture."""

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    StableDiffusionPipeline,
)

from service.diffusion.noise import SeededNoise
from service.diffusion.schedules import AYS
from service.engines.contract import Engine, Ticket
from service.engines.factory import open_engine
from service.errors import InvalidRequest
from service.pipeline import generate
from service.recipe import Overrides, load_presets, resolve
from service.settings import Settings
from tests.conftest import Exported

PROMPT, NEGATIVE, SEED, SCALE, SIZE = "a red sphere", "blurred", 11, 3.5, 16
AYS_STEPS = AYS["squaredcos"][:-1]  # the last entry is replaced by 0
TRAILING = {"timestep_spacing": "trailing"}
CASES = {
    "euler on linspace": ("euler", "linspace", 8, EulerDiscreteScheduler, {"timestep_spacing": "linspace"}, {}),
    "euler on trailing": ("euler", "trailing", 8, EulerDiscreteScheduler, TRAILING, {}),
    "euler on ays": ("euler", "ays", 10, EulerDiscreteScheduler, {}, {"timesteps": list(AYS_STEPS)}),
    "heun on trailing": ("heun", "trailing", 6, HeunDiscreteScheduler, TRAILING, {}),
    "dpmpp_2m on trailing": ("dpmpp_2m", "trailing", 8, DPMSolverMultistepScheduler, TRAILING, {}),
    "dpmpp_2m on ays": ("dpmpp_2m", "ays", 10, DPMSolverMultistepScheduler, {}, {"timesteps": list(AYS_STEPS)}),
}  # fmt: skip


@pytest.fixture(scope="module")
def engine(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    settings = Settings(
        model_repository=exported.repository,
        default_model="tiny",
        precision="fp32",
        cache_dir=tmp_path_factory.mktemp("cache"),
    )
    return open_engine(settings)


def recipe_of(engine: Engine, **overrides: Any) -> Any:
    request = {"prompt": PROMPT, "negative_prompt": NEGATIVE, "seed": SEED, "guidance_scale": SCALE} | overrides
    presets = load_presets()
    return resolve(Overrides.parse(request), presets, engine.models, engine.name, engine.precision)


@pytest.mark.parametrize("case", CASES)
def test_our_picture_is_diffusers_picture(engine: Engine, exported: Exported, case: str) -> None:
    sampler, schedule, steps, scheduler, config, call = CASES[case]
    recipe = recipe_of(
        engine, sampler=sampler, schedule=schedule, num_inference_steps=steps, guidance_interval=None, preset="balanced"
    )
    ours = generate(engine, recipe, Ticket()).pixels

    pipeline = StableDiffusionPipeline.from_pretrained(exported.checkpoint)
    pipeline.scheduler = scheduler.from_config(pipeline.scheduler.config, **config)
    pipeline.set_progress_bar_config(disable=True)
    noise = SeededNoise(SEED, (pipeline.unet.config.in_channels, SIZE // 2, SIZE // 2)).draw()
    theirs = pipeline(
        PROMPT, negative_prompt=NEGATIVE, guidance_scale=SCALE, latents=torch.from_numpy(noise)[None].float(),
        height=SIZE, width=SIZE, output_type="np", **(call or {"num_inference_steps": steps}),
    ).images[0]  # fmt: skip
    assert theirs.std() > 0.02, "a flat picture proves nothing"
    assert np.abs(ours.astype(int) - np.round(theirs * 255).astype(int)).max() <= 1


def test_the_table_of_steps_is_what_runs(engine: Engine) -> None:
    recipe = recipe_of(engine, sampler="heun", schedule="karras", num_inference_steps=6, guidance_interval=[1.0, 10.0])
    table = recipe.calls(engine.models[recipe.model])
    picture = generate(engine, recipe, Ticket())
    assert picture.timings["network_calls"] == len(table) == 11
    assert {call.rows for call in table} == {("cond",), ("uncond", "cond")}


def test_a_prompt_that_does_not_fit_names_its_field(engine: Engine) -> None:
    too_long = "word " * 200
    guided = recipe_of(engine, negative_prompt=too_long)
    with pytest.raises(InvalidRequest, match="tokens long") as caught:
        generate(engine, guided, Ticket())
    assert caught.value.field == "negative_prompt"
