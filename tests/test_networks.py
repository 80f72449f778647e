"""A recipe that names other networks of its model: which it may, what they do, and that their calls stay apart."""

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from service.diffusion.types import Denoised
from service.engines.contract import DESCRIPTION, Array, Conditioning, Ticket
from service.engines.dispatch import Gate
from service.engines.embedded import EmbeddedEngine
from service.engines.gaussian import NAME, GaussianEngine, describe
from service.engines.runtimes import OpenVino
from service.errors import InvalidRequest
from service.pipeline import Stopwatch, develop, encode, generate
from service.recipe import Overrides, Preset, Recipe, load_presets, parameterization, resolve
from tests.engines import tiny
from tests.recipes import FAMILY

PRESETS = load_presets()
STARTED = {"initial_network": "unet_initial"}
LIGHTNING = "sdxl-lightning-4step"
DMD2 = {"model": "sdxl-dmd2-1step", "preset": "dmd2-1step"}
STUDENT = Preset(
    name="student",
    title="t",
    description="d",
    evidence="e",
    fixed=True,
    recipe=Overrides.parse(
        {"network": "unet_student", "sampler": "flash", "schedule": "trailing", "num_inference_steps": 3}
    ),
)
TRAINED = {**PRESETS, "student": STUDENT}


def studied(**fields: Any) -> Recipe:
    body = {"prompt": "a lake", "seed": 3, "model": "studied"} | fields
    return resolve(Overrides.parse(body), TRAINED, FAMILY, "embedded", "bf16")


def test_a_preset_may_name_a_network_and_is_for_models_that_have_it() -> None:
    recipe = studied(preset="student")
    assert (recipe.network, studied().network) == ("unet_student", "unet")
    assert {call.network for call in recipe.calls(FAMILY["studied"])} == {"unet_student"}
    assert studied(**json.loads(recipe.model_dump_json())) == recipe
    with pytest.raises(InvalidRequest, match="which has:") as caught:
        studied(preset="student", model="postcard")
    assert caught.value.field == "preset"


@pytest.mark.parametrize(
    ("fields", "field", "sentence"),
    [
        ({"preset": "student", "schedule": "ays"}, "schedule", "trained on its own steps"),
        ({"preset": "student", "schedule_options": {"start": 700}}, "schedule_options", "trained on its own steps"),
        ({"preset": "student", "num_inference_steps": 4}, "num_inference_steps", "trained on its own steps"),
        ({"preset": "student", "sigmas": [9, 0]}, "sigmas", "trained on its own steps"),
        ({"preset": "student", "network": "unet"}, "network", "trained on its own steps"),
        ({"network": "unet_student"}, "network", "use preset student"),
        ({"network": "unet_student", "preset": "ays"}, "network", "use preset student"),
        ({"model": LIGHTNING, "preset": "ays"}, "preset", "use preset lightning-4step"),
        ({"model": LIGHTNING, "schedule": "ays"}, "schedule", "trained on its own steps"),
        (DMD2 | {"schedule": "trailing"}, "schedule", "trained on its own steps"),  # without its start at 399
        (DMD2 | {"schedule_options": {"start": 400}}, "schedule_options", "trained on its own steps"),
    ],
)
def test_a_student_runs_at_the_steps_it_was_trained_on(fields: dict[str, Any], field: str, sentence: str) -> None:
    lightning = FAMILY[LIGHTNING].model_copy(update={"default_preset": "lightning-4step"})
    body = {"prompt": "a lake", "seed": 3, "model": "studied"} | fields
    with pytest.raises(InvalidRequest, match=sentence) as caught:
        resolve(Overrides.parse(body), TRAINED, FAMILY | {LIGHTNING: lightning}, "embedded", "bf16")
    assert caught.value.field == field


def test_further_networks_are_in_the_recipe_and_in_its_calls() -> None:
    recipe = studied(initial_network="unet_initial", residual_network="unet_residual", num_inference_steps=3)
    assert studied(**json.loads(recipe.model_dump_json())) == recipe
    calls = [(call.network, call.rows) for call in recipe.calls(FAMILY["studied"])]
    assert calls[0] == ("unet_initial", ("cond",))  # the preset guides below sigma 20
    assert [network for network, _ in calls[1:]] == ["unet"] * 3 + ["unet_residual"]
    assert studied(**STARTED, guidance_interval=None).calls(FAMILY["studied"])[0].rows == ("uncond", "cond")


MEAN, WIDTH = 1.7, 1.0  # of the latents of a world of bright pictures
SIGMAS = [3.0, 1.0, 0.3, 0.0]
PROCESS = parameterization(describe("v"))


class World(GaussianEngine):
    """Every latent is normal around a brightness; what its networks say of it is exact."""

    def __init__(self) -> None:
        super().__init__()
        base = describe("v")
        further = dict.fromkeys(("unet_student", "unet_initial", "unet_residual"), base.networks["unet"])
        self.models = {NAME: base.model_copy(update={"networks": {**base.networks, **further}})}
        self.calls: list[tuple[str, Conditioning]] = []

    def predict(self, model: str, network: str, x: Array, timestep: Array, rows: Any, ticket: Ticket) -> Array:
        assert (model, len(x), ticket.cancelled.is_set()) == (NAME, len(rows), False)
        self.calls += [(network, row) for row in rows]
        if network == "unet_initial":
            return np.full_like(x, MEAN)  # E[x0 | pure noise]
        if network == "unet_residual":
            return (EXACT / EULER - 1) * (x - MEAN)
        sigma = PROCESS.timestep_to_sigma(float(timestep[0]))
        level = x * np.hypot(1, sigma)
        x0 = MEAN + WIDTH**2 / (WIDTH**2 + sigma**2) * (level - MEAN)
        return PROCESS.predicted(Denoised(x0, (level - x0) / sigma), sigma)


def shrinks(sigma: float, following: float) -> float:
    """What an Euler step makes of the distance from the mean."""
    return 1 + (following - sigma) / sigma * (1 - WIDTH**2 / (WIDTH**2 + sigma**2))


EULER = float(np.prod([shrinks(*pair) for pair in pairwise(SIGMAS)]))
EXACT = WIDTH / np.hypot(WIDTH, SIGMAS[0])  # the probability-flow ODE's


def sampled(**fields: Any) -> tuple[Array, Array, list[tuple[str, Conditioning]]]:
    """The latent of a recipe in that world, its initial noise, and what the networks were told, row by row."""
    world = World()
    body = {"prompt": "", "seed": 5, "width": 64, "height": 64, "sampler": "euler", "sigmas": SIGMAS}
    recipe = resolve(Overrides.parse(body | {"guidance_scale": 1} | fields), PRESETS, world.models, NAME, "fp32")
    model = world.models[NAME]
    latent = develop(world, recipe, model, encode(world, recipe, Ticket()), Ticket(), Stopwatch(), ())
    assert [network for network, _ in world.calls] == [call.network for call in recipe.calls(model)]
    return latent, np.random.default_rng(5).standard_normal(latent.shape), world.calls


def test_singdiffusion_gives_the_picture_the_brightness_of_its_world() -> None:
    """x0 - mean = EULER (x - mean) at every pixel: started at mean + sigma n, no brightness is lost."""
    latent, noise, calls = sampled(**STARTED)
    np.testing.assert_allclose(latent, MEAN + EULER * SIGMAS[0] * noise, rtol=1e-5, atol=1e-5)
    assert [network for network, _ in calls] == ["unet_initial", "unet", "unet", "unet"]
    latent, noise, _ = sampled()
    expected = MEAN * (1 - EULER) + EULER * np.hypot(1, SIGMAS[0]) * noise
    np.testing.assert_allclose(latent, expected, rtol=1e-5, atol=1e-5)


def test_a_residual_network_takes_away_what_few_steps_leave() -> None:
    """The latent is that of infinitely many steps."""
    latent, noise, calls = sampled(**STARTED, residual_network="unet_residual")
    np.testing.assert_allclose(latent, MEAN + EXACT * SIGMAS[0] * noise, rtol=1e-5, atol=1e-5)
    assert calls[-1][0] == "unet_residual"
    assert abs(EXACT / EULER - 1) > 0.1


def test_the_sampler_calls_the_network_that_is_named() -> None:
    latent, _, calls = sampled(network="unet_student")
    np.testing.assert_array_equal(latent, sampled()[0])  # here its formula is that of the unet
    assert [network for network, _ in calls] == ["unet_student"] * 3


def test_the_start_sees_the_clean_condition() -> None:
    """CADS noises what the sampler's network is told, not what the initial one is; noised rows have no digest."""
    _, _, calls = sampled(**STARTED, cads={"tau1": 0.4, "tau2": 0.5})
    assert [(network, row.digest != "") for network, row in calls] == [
        ("unet_initial", True), ("unet", False), ("unet", False), ("unet", True)
    ]  # fmt: skip


class Watched(EmbeddedEngine):
    """Notes how many rows each network was called with."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.calls: list[tuple[str, int]] = []

    def predict(self, model: str, network: str, x: Array, *rest: Any) -> Array:
        self.calls.append((network, len(x)))
        return super().predict(model, network, x, *rest)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """The tiny repository with a student, an initial and a residual network of other weights."""
    repository, cache = tmp_path_factory.mktemp("repository"), tmp_path_factory.mktemp("cache")
    description = tiny.write_repository(repository)
    networks = dict(description.networks)
    for role in ("unet_student", "unet_initial", "unet_residual"):
        unet = networks["unet"]
        file = repository / f"{tiny.NAME}_{role}" / "1" / "model.onnx"
        content = tiny.save(tiny.unet(), file, (*unet.inputs, *unet.outputs))
        digest = hashlib.sha256(content).hexdigest()
        networks[role] = unet.model_copy(update={"entry": f"{tiny.NAME}_{role}", "sha256": digest})
    description = description.model_copy(update={"networks": networks})
    (repository / f"{tiny.NAME}_unet" / DESCRIPTION / "model.json").write_text(description.model_dump_json())
    made = Watched(repository, OpenVino("fp32", 2, cache))
    yield made
    made.close()


def tiny_recipe(engine: Watched, seed: int, **fields: Any) -> Recipe:
    body = {"prompt": "a", "seed": seed, "sampler": "euler", "sigmas": [3, 1, 0.5, 0], "guidance_interval": None}
    return resolve(Overrides.parse(body | fields), PRESETS, engine.models, engine.name, engine.precision)


def test_exported_networks_run_and_calls_of_different_ones_are_never_merged(engine: Watched) -> None:
    further = {"initial_network": "unet_initial", "residual_network": "unet_residual"}
    bodies = [{}, {"network": "unet_student"}, further, {"network": "unet_student"} | further]
    recipes = [tiny_recipe(engine, seed, **body) for seed in range(4) for body in bodies]
    alone = [generate(engine, recipe, Ticket()).pixels for recipe in recipes]
    assert len({pixels.tobytes() for pixels in alone}) == len(recipes)
    expected = [call.network for recipe in recipes for call in recipe.calls(engine.models[tiny.NAME])]
    assert [network for network, _ in engine.calls] == expected

    engine.calls.clear()
    gate = Gate(engine, in_flight=1, max_rows=8)
    with ThreadPoolExecutor(len(recipes)) as threads:
        together = list(threads.map(lambda recipe: generate(gate, recipe, Ticket()).pixels, recipes))
    for mine, lone in zip(together, alone, strict=True):
        np.testing.assert_array_equal(mine, lone)
    assert len(engine.calls) < len(expected)
