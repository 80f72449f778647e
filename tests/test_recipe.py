"""Preset + overrides -> recipe: pure, strict, and a fixed point of itself."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.diffusion.samplers import SAMPLERS
from service.diffusion.schedules import FLOW_ONLY, SCHEDULES
from service.diffusion.types import Denoised
from service.errors import InvalidRequest, UnknownModel
from service.recipe import Overrides, Preset, Recipe, load_presets, resolve
from tests.recipes import FAMILY, FLOW, MODELS, POSTCARD

PRESETS = load_presets()


def resolved(**fields: Any) -> Recipe:
    return resolve(Overrides.parse({"prompt": "a lake", "seed": 3} | fields), PRESETS, MODELS, "embedded", "bf16")


def refusal(**fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        resolved(**fields)
    return caught.value


def test_a_bare_request_gets_the_models_default_preset_in_full() -> None:
    recipe = resolved()
    assert recipe.preset == POSTCARD.default_preset == "balanced"
    assert (recipe.model, recipe.model_digest) == ("postcard", POSTCARD.digest)
    assert (recipe.width, recipe.height) == (256, 256)
    assert (recipe.engine, recipe.precision) == ("embedded", "bf16")
    assert recipe.sampler == PRESETS["balanced"].recipe.sampler
    assert len(recipe.sigmas) == recipe.num_inference_steps + 1
    assert recipe.negative_prompt == ""


def test_request_fields_replace_preset_fields() -> None:
    recipe = resolved(preset="balanced", num_inference_steps=7, guidance_scale=2, guidance_interval=None)
    assert (recipe.num_inference_steps, recipe.guidance_scale, recipe.guidance_interval) == (7, 2.0, None)
    assert recipe.sampler == "dpmpp_2m"


def test_options_are_filled_in_with_their_defaults() -> None:
    recipe = resolved(sampler="dpmpp_2m_sde", sampler_options={"eta": 0.5}, schedule="karras")
    assert recipe.sampler_options == {"eta": 0.5, "s_noise": 1.0, "solver": "midpoint"}
    assert recipe.schedule_options == {"rho": 7.0}


def preset_of(**recipe: Any) -> dict[str, Preset]:
    return {"own": Preset(name="own", title="t", description="d", evidence="e", recipe=Overrides.parse(recipe))}


def test_what_depends_on_a_replaced_field_goes_with_it() -> None:
    presets = preset_of(
        sampler="dpmpp_2m_sde",
        sampler_options={"eta": 0.3},
        schedule="karras",
        schedule_options={"rho": 3.0},
        num_inference_steps=5,
    )

    def own(**fields: Any) -> Recipe:
        return resolve(
            Overrides.parse({"prompt": "", "seed": 0, "preset": "own"} | fields), presets, MODELS, "embedded", "fp32"
        )

    assert (own().sampler_options["eta"], own().schedule_options) == (0.3, {"rho": 3.0})
    assert own(sampler="dpmpp_2m_sde").sampler_options["eta"] == 1.0
    assert own(sampler="euler").sampler_options == {}
    assert own(schedule="karras").schedule_options == {"rho": 7.0}
    assert own(schedule="linspace").num_inference_steps == 5
    explicit = own(sigmas=[3, 1, 0])
    assert (explicit.schedule, explicit.schedule_options, explicit.num_inference_steps) == ("explicit", {}, 2)


def test_a_preset_with_its_own_sigmas_gives_way_to_steps_and_a_schedule() -> None:
    presets = preset_of(sampler="euler", sigmas=[3.0, 1.0, 0.0])

    def own(**fields: Any) -> Recipe:
        overrides = Overrides.parse({"prompt": "", "seed": 0, "preset": "own"} | fields)
        return resolve(overrides, presets, MODELS, "embedded", "fp32")

    assert own().sigmas == (3.0, 1.0, 0.0)
    assert own(schedule="trailing", num_inference_steps=4).num_inference_steps == 4
    with pytest.raises(InvalidRequest, match="needs sigmas"):
        own(num_inference_steps=4)


@settings(deadline=None, max_examples=60)
@given(
    sampler=st.sampled_from(sorted(SAMPLERS)),
    schedule=st.sampled_from(sorted(set(SCHEDULES) - FLOW_ONLY - {"beta", "lcm", "leading"})),
    steps=st.integers(3, 200),
    scale=st.floats(1, 20, exclude_min=True),
    interval=st.sampled_from([None, [0.01, 1e6]]),
    seed=st.integers(0, 2**53 - 1),
    prompt=st.text(max_size=20),
)
def test_an_echoed_recipe_is_a_request_for_itself(
    sampler: str, schedule: str, steps: int, scale: float, interval: list[float] | None, seed: int, prompt: str
) -> None:
    guidance = {"guidance_scale": scale, "guidance_interval": interval}
    recipe = resolved(
        sampler=sampler, schedule=schedule, num_inference_steps=steps, seed=seed, prompt=prompt, **guidance
    )
    body = json.loads(recipe.model_dump_json())
    assert resolved(**body) == recipe
    assert Recipe.model_validate(body) == recipe
    assert list(body) == list(Recipe.model_fields)
    assert set(body) == set(Overrides.model_fields)


@settings(deadline=None)
@given(st.lists(st.floats(1e-4, 160), min_size=1, max_size=30, unique=True))
def test_explicit_sigmas_survive_to_the_last_bit(levels: list[float]) -> None:
    sigmas = [*sorted(levels, reverse=True), 0.0]
    recipe = resolved(sigmas=sigmas)
    assert list(recipe.sigmas) == sigmas == json.loads(recipe.model_dump_json())["sigmas"]
    assert recipe.schedule == "explicit"


NULLABLE = {"initial_network", "residual_network", "guidance_interval", "epsilon_scaling", "time_shift", "cads"}


def test_null_means_none_where_it_can_and_not_set_elsewhere() -> None:
    assert resolved(preset="eps-scaled", epsilon_scaling=None).epsilon_scaling is None
    assert resolved(preset="eps-scaled").epsilon_scaling is not None
    nothing = dict.fromkeys(set(Overrides.model_fields) - {"prompt", "seed"} - NULLABLE)
    assert resolved(**nothing) == resolved()


def test_assertions_of_an_echo_are_checked() -> None:
    for field, wrong in (("model_digest", "0" * 16), ("engine", "triton"), ("precision", "fp32")):
        error = refusal(**{field: wrong})
        assert (error.field, wrong in error.message) == (field, True)
    assert resolved(model_digest=POSTCARD.digest, engine="embedded", precision="bf16") == resolved()


def test_several_models_need_a_name() -> None:
    models = {"postcard": POSTCARD, "sd3-medium": FLOW}
    with pytest.raises(UnknownModel, match="postcard, sd3-medium"):
        resolve(Overrides(prompt="", seed=0), PRESETS, models, "embedded", "fp32")
    recipe = resolve(Overrides(prompt="", seed=0, model="sd3-medium"), PRESETS, models, "embedded", "fp32")
    assert (recipe.width, recipe.sigmas[0]) == (512, pytest.approx(9999))


@pytest.mark.parametrize(
    ("fields", "field", "sentence"),
    [
        ({"model": "nope"}, "model", "known: postcard"),
        ({"preset": "nope"}, "preset", "balanced"),
        ({"sampler": "nope"}, "sampler", "dpmpp_2m"),
        ({"schedule": "nope"}, "schedule", "karras"),
        ({"schedule": "explicit"}, "sigmas", "needs sigmas"),
        ({"sampler": "euler", "sampler_options": {"eta": 1}}, "sampler_options.eta", "options of euler: none"),
        ({"sampler": "heun", "sampler_options": {"a.b": 1}}, "sampler_options.a.b", "none"),
        ({"sampler": "euler_ancestral", "sampler_options": {"eta": -1}}, "sampler_options.eta", "greater"),
        ({"sampler": "euler_ancestral", "sampler_options": {"eta": True}}, "sampler_options.eta", "finite number"),
        ({"sampler": "euler_ancestral", "sampler_options": {"eta": "1"}}, "sampler_options.eta", "number"),
        ({"sampler": "euler_ancestral", "sampler_options": {"eta": float("nan")}}, "sampler_options.eta", "finite"),
        ({"sampler": "dpmpp_2m_sde", "sampler_options": {"solver": "x"}}, "sampler_options.solver", "midpoint"),
        ({"schedule": "karras", "schedule_options": {"sigma_max": 1e9}}, "schedule_options", "exceed"),
        ({"schedule": "karras", "schedule_options": {"rho": 0}}, "schedule_options.rho", "rho, sigma_min"),
        ({"sigmas": [1, 0], "schedule_options": {"rho": 2}}, "schedule_options.rho", "options of explicit: none"),
        ({"num_inference_steps": 0}, "num_inference_steps", "greater"),
        ({"num_inference_steps": -1}, "num_inference_steps", "greater"),
        ({"num_inference_steps": 201}, "num_inference_steps", "200"),
        ({"num_inference_steps": 10**9}, "num_inference_steps", "200"),
        ({"num_inference_steps": True}, "num_inference_steps", "integer"),
        ({"num_inference_steps": 8.0}, "num_inference_steps", "integer"),
        ({"num_inference_steps": float("nan")}, "num_inference_steps", "integer"),
        ({"sigmas": [0.0] * 500}, "sigmas", "200"),
        ({"sigmas": []}, "sigmas", "at least two"),
        ({"sigmas": [1, 2, 0]}, "sigmas", "decrease"),
        ({"sigmas": [1, True, 0]}, "sigmas.1", "number"),
        ({"sigmas": "1,0"}, "sigmas", "tuple"),
        ({"sigmas": [5, 1, 0], "num_inference_steps": 3}, "sigmas", "3 steps"),
        ({"sigmas": [5, 1, 0], "schedule": "karras", "num_inference_steps": 2}, "sigmas", "karras"),
        ({"seed": -1}, "seed", "greater"),
        ({"seed": 2**53}, "seed", "less"),
        ({"seed": True}, "seed", "integer"),
        ({"seed": "7"}, "seed", "integer"),
        ({"seed": None}, "seed", "missing"),
        ({"prompt": None}, "prompt", "missing"),
        ({"prompt": 5}, "prompt", "string"),
        ({"prompt": "half \ud83d"}, "prompt", "surrogate"),
        ({"width": 300}, "width", "256x256"),
        ({"height": 0}, "height", "256x256"),
        ({"width": 330, "height": 200}, "width", "320x192"),
        ({"width": 10**30, "height": 192}, "width", "320x192"),
        ({"width": 256.0}, "width", "integer"),
        ({"guidance_scale": 0}, "guidance_scale", "greater than 0"),
        ({"guidance_scale": float("inf")}, "guidance_scale", "less"),
        ({"guidance_scale": float("nan")}, "guidance_scale", "Input should be"),
        ({"guidance_interval": [3, 1]}, "guidance_interval", "lo < hi"),
        ({"guidance_interval": [1]}, "guidance_interval.1", "required"),
        ({"epsilon_scaling": {"scale": 9}}, "epsilon_scaling.scale", "1.5"),
        ({"epsilon_scaling": {}}, "epsilon_scaling.scale", "required"),
        ({"epsilon_scaling": 1.005}, "epsilon_scaling", "EpsilonScaling"),
        ({"scheduler": "karras"}, "scheduler", "not permitted"),
    ],
)
def test_refusals_name_the_field_and_say_what_to_do(fields: dict[str, Any], field: str, sentence: str) -> None:
    error = refusal(**fields)
    assert error.field == field
    assert sentence in error.message


def test_the_limit_of_steps_is_the_callers() -> None:
    with pytest.raises(InvalidRequest, match="more than the 10"):
        resolve(Overrides(prompt="", seed=0), PRESETS, MODELS, "embedded", "fp32", max_steps=10)


FLOW_BODY = {"model": "sd3-medium", "schedule": "trailing", "guidance_interval": None}
UNIPC = {"sampler": "unipc", "sampler_options": {"order": 3}}
APG = {"guidance_method": "apg"}
SDE = {"sampler": "dpmpp_2m_sde"}
HELD = FLOW_BODY | {"sampler": "euler", "guidance_method": "cfg_zero", "guidance_options": {"zero_steps": 3}}
STARTED = {"model": "studied", "initial_network": "unet_initial"}
X0_ONLY = {"epsilon_scaling": {"scale": 1.01, "form": "x0_only"}}


@pytest.mark.parametrize(
    ("fields", "field", "sentence"),
    [
        ({"schedule": "flow_shift"}, "schedule", "use trailing"),
        (FLOW_BODY | {"schedule": "ays"}, "schedule", "use flow_shift"),
        (UNIPC | {"num_inference_steps": 2}, "sampler_options.order", "3 steps"),
        ({"sampler": "flash", "sigmas": [5, 1, 0]}, "schedule", "such as trailing"),
        (FLOW_BODY | {"zero_terminal_snr": True}, "zero_terminal_snr", "leave it out"),
        ({"model": "sd15", "zero_terminal_snr": True}, "zero_terminal_snr", "use v or x0"),
        ({"zero_terminal_snr": True, "schedule": "leading"}, "schedule", "use trailing"),
        ({"zero_terminal_snr": 1}, "zero_terminal_snr", "boolean"),
        ({"guidance_method": "cfg_pp", "guidance_scale": 3, "sampler": "euler"}, "guidance_scale", "at most 1"),
        ({"guidance_method": "cfg_pp", "guidance_scale": 0.6, "sampler": "dpmpp_2m"}, "sampler", "euler_ancestral"),
        ({"sampler": "euler_cfg_pp"}, "guidance_scale", "at most 1"),
        ({"guidance_method": "cfg_zero", "sampler": "euler"}, "guidance_method", "use cfg or apg"),
        (FLOW_BODY | {"guidance_method": "cfg_zero"}, "guidance_options.zero_steps", "use euler"),
        (APG | {"guidance_options": {"rescale": 0.7}}, "guidance_options.rescale", "leave rescale out"),
        ({"guidance_method": "nope"}, "guidance_method", "apg, cfg, cfg_pp, cfg_zero"),
        ({"guidance_options": {"eta": 1}}, "guidance_options.eta", "options of cfg: rescale"),
        (
            {"epsilon_scaling": {"scale": 1.01}, "time_shift": {"data_variance": 0.5}},
            "time_shift",
            "give one of them",
        ),
        (X0_ONLY | {"sampler": "heun"}, "epsilon_scaling.form", "everywhere"),
        (FLOW_BODY | {"time_shift": {"data_variance": 0.5}}, "time_shift", "leave it out"),
        ({"time_shift": {"data_variance": 1}}, "time_shift.data_variance", "use epsilon_scaling"),
        ({"time_shift": {"window": 20}}, "time_shift.data_variance", "required"),
        ({"cads": {"tau1": 0.9, "tau2": 0.6}}, "cads", "tau1 must be below tau2"),
        ({"cads": {"tau1": True}}, "cads.tau1", "number"),
        ({"schedule": "beta", "num_inference_steps": 200}, "schedule_options", "beta_sigma"),
        ({"schedule": "leading", "num_inference_steps": 1}, "schedule_options", "use trailing"),
        ({"sampler": "DPM++ 2M Karras", "schedule": "ays"}, "schedule", "give one of them"),
        ({"sampler": "PLMS"}, "sampler", "known: ddim"),
        (FLOW_BODY | {"guidance_method": "cfg_zero", "guidance_scale": 1}, "guidance_scale", "use cfg"),
        (HELD | {"num_inference_steps": 3}, "guidance_options.zero_steps", "fewer zero_steps"),
        ({"network": "unet_student"}, "network", "known: unet"),
        ({"network": "vae_decoder"}, "network", "known: unet"),
        ({"model": "studied", "network": "unet_initial"}, "network", "known: unet, unet_student"),
        ({"initial_network": "unet_initial"}, "initial_network", "known: none"),
        ({"model": "studied", "initial_network": "unet_student"}, "initial_network", "known: unet_initial"),
        ({"residual_network": "unet"}, "residual_network", "known: none"),
        ({"network": 1}, "network", "string"),
        (STARTED | {"zero_terminal_snr": True}, "initial_network", "leave initial_network out"),
        (STARTED | {"sampler": "flash"}, "initial_network", "use ddim"),
        (STARTED | {"sampler": "euler_cfg_pp", "guidance_scale": 0.6}, "initial_network", "use cfg"),
    ],
)
def test_impossible_combinations_say_what_to_do_instead(fields: dict[str, Any], field: str, sentence: str) -> None:
    body = {"prompt": "a lake", "seed": 3, "model": "postcard"} | fields
    with pytest.raises(InvalidRequest) as caught:
        resolve(Overrides.parse(body), PRESETS, FAMILY, "embedded", "bf16")
    assert caught.value.field == field
    assert sentence in caught.value.message


MISSED = {"guidance_interval": [1e5, 1e6]}
ONCE = {"num_inference_steps": 1, "guidance_interval": None}


@pytest.mark.parametrize(
    ("fields", "field", "sentence"),
    [
        ({"negative_prompt": "fog", "guidance_scale": 1}, "negative_prompt", "raise guidance_scale or leave"),
        ({"negative_prompt": "fog"} | MISSED, "negative_prompt", "widen guidance_interval or leave"),
        ({"negative_prompt": "fog", "model": "sdxl-lcm", "preset": "lcm"}, "negative_prompt", "raise guidance_scale"),
        ({"guidance_scale": 1, "guidance_interval": [1, 5]}, "guidance_interval", "raise guidance_scale"),
        ({"guidance_scale": 3} | MISSED, "guidance_interval", "widen guidance_interval"),
        ({"guidance_scale": 3, "num_inference_steps": 1}, "guidance_scale", "no network call lies in"),
        (APG | {"guidance_scale": 1}, "guidance_method", "raise guidance_scale"),
        ({"guidance_scale": 1, "guidance_options": {"rescale": 0.7}}, "guidance_options", "raise guidance_scale"),
        (SDE | {"sampler_options": {"eta": 0, "s_noise": 1.1}}, "sampler_options.s_noise", "raise eta"),
        ({"schedule": "trailing", "schedule_options": {"start": 1000}}, "schedule_options", "at most 999"),
        (ONCE | {"epsilon_scaling": {"scale": 1.01}}, "epsilon_scaling", "add steps"),
        (ONCE | {"time_shift": {"data_variance": 0.5}}, "time_shift.cutoff", "lower the cutoff"),
        ({"time_shift": {"data_variance": 0.5, "cutoff": 950}}, "time_shift.cutoff", "lower the cutoff"),
        ({"cads": {}, "sigmas": [0.5, 0.1, 0]}, "cads.tau1", "lower tau1"),
    ],
)
def test_what_would_be_accepted_and_ignored_is_refused(fields: dict[str, Any], field: str, sentence: str) -> None:
    body = {"prompt": "a lake", "seed": 3, "model": "postcard"} | fields
    with pytest.raises(InvalidRequest) as caught:
        resolve(Overrides.parse(body), PRESETS, FAMILY, "embedded", "bf16")
    assert caught.value.field == field
    assert sentence in caught.value.message


@pytest.mark.parametrize("fields", [{"guidance_scale": 1}, {"num_inference_steps": 1}, {"guidance_scale": 1} | MISSED])
def test_guidance_of_a_preset_that_nothing_uses_is_not_in_the_recipe(fields: dict[str, Any]) -> None:
    given = {name: value for name, value in fields.items() if name != "guidance_interval"}
    presets = preset_of(**(PRESETS["balanced"].recipe.given() | APG | {"negative_prompt": "fog"} | fields))
    body = {"prompt": "", "seed": 0, "preset": "own"} | given
    recipe = resolve(Overrides.parse(body), presets, MODELS, "embedded", "fp32")
    assert (recipe.negative_prompt, recipe.guidance_scale, recipe.guidance_interval) == ("", 1.0, None)
    assert (recipe.guidance_method, recipe.guidance_options) == ("cfg", {"rescale": 0.0})
    echo = Overrides.parse(json.loads(recipe.model_dump_json()))
    assert resolve(echo, presets, MODELS, "embedded", "fp32") == recipe


def test_labels_of_other_programs_are_echoed_as_ours() -> None:
    recipe = resolved(sampler="DPM++ 2M SDE Heun Karras", schedule="Karras")
    assert (recipe.sampler, recipe.sampler_options["solver"], recipe.schedule) == ("dpmpp_2m_sde", "heun", "karras")
    cfg_pp = resolved(sampler="euler_cfg_pp", guidance_scale=0.6)
    assert (cfg_pp.sampler, cfg_pp.guidance_method) == ("euler", "cfg_pp")
    assert resolved(sampler="UniPC").sampler_options == {"order": 3, "variant": "bh1"}


def test_an_order_that_was_not_asked_for_fits_the_steps() -> None:
    assert resolved(sampler="deis", num_inference_steps=2).sampler_options == {"order": 2}
    assert resolved(sampler="deis", num_inference_steps=9).sampler_options == {"order": 3}


FULL = {
    "sampler": "euler",
    "zero_terminal_snr": True,
    "guidance_options": {"rescale": 0.7},
    "epsilon_scaling": {"scale": 1.004, "slope": 0.0001, "form": "x0_only"},
    "cads": {"tau1": 0.5},
}


def test_everything_at_once_is_a_fixed_point() -> None:
    recipe = resolved(**FULL)
    assert resolved(**json.loads(recipe.model_dump_json())) == recipe
    assert recipe.cads is not None
    assert recipe.cads.tau2 == 0.9
    flow = {"prompt": "", "seed": 1, "schedule": "flow_resolution"} | FLOW_BODY | {"schedule": "flow_resolution"}
    first = resolve(Overrides.parse(flow), PRESETS, FAMILY, "embedded", "bf16")
    echo = Overrides.parse(json.loads(first.model_dump_json()))
    assert resolve(echo, PRESETS, FAMILY, "embedded", "bf16") == first


def test_every_part_that_a_recipe_names_is_built() -> None:
    parts = resolved(**FULL).parts(POSTCARD)
    assert (len(parts.corrections), len(parts.transforms)) == (1, 1)
    assert len(resolved(time_shift={"data_variance": 0.5}).parts(POSTCARD).corrections) == 1
    y = {"encoder_hidden_states": np.random.default_rng(0).standard_normal((7, 5))}
    noised = [resolved(**FULL).parts(POSTCARD).transforms[0](y, 0.8)["encoder_hidden_states"] for _ in range(2)]
    np.testing.assert_array_equal(*noised)  # the seed decides
    other = resolved(**FULL, seed=4).parts(POSTCARD).transforms[0](y, 0.8)["encoder_hidden_states"]
    assert not np.allclose(other, noised[0])


def test_a_recipe_builds_the_parts_it_names() -> None:
    recipe = resolved(preset="eps-scaled", sampler="euler_ancestral", sampler_options={"eta": 0.0})
    parts = recipe.parts(POSTCARD)
    denoise = parts.guidance(lambda x, _sigma, names: [Denoised(x, x)] * len(names))
    (correction,) = parts.corrections
    assert parts.sampler(correction(denoise), np.ones(3), np.array(recipe.sigmas), None).shape == (3,)
    assert parts.transforms == []
