"""Combinations that cannot work, or of which a part would do nothing: each refused with what to do instead.

Not refused: neutral values (scale 1, noise 0), and options that reach only beyond a few steps (the noise of a sampler
in one step). Every engine takes conditioning by value, so CADS runs on all of them.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from service.diffusion.corrections import SINGULAR
from service.diffusion.explain import Evaluation
from service.diffusion.parameterization import Parameterization
from service.diffusion.samplers import ALONG_EPS, EPS_ONLY
from service.diffusion.schedules import FLOW_ONLY, VP_ONLY
from service.errors import InvalidRequest

Refusal = tuple[bool, str, str]  # is it so, field, sentence


def refuse_impossible(values: Mapping[str, Any], kind: str, prediction: str) -> None:
    """Raise InvalidRequest for the first impossible combination in the resolved values of a recipe."""
    _refuse(_schedule(values, kind, prediction))
    _refuse(_networks(values, kind))
    _refuse(_guidance(values, kind))
    _refuse(_corrections(values, kind))


def refuse_idle(values: Mapping[str, Any], calls: Sequence[Evaluation], process: Parameterization) -> None:
    """Raise InvalidRequest for what acts in none of the network calls."""
    _refuse(_idle(values, [call for call in calls if call.network == values["network"]], process))


def _refuse(refusals: Iterator[Refusal]) -> None:
    for impossible, field, sentence in refusals:
        if impossible:
            raise InvalidRequest(sentence, field=field)


def _schedule(values: Mapping[str, Any], kind: str, prediction: str) -> Iterator[Refusal]:
    name, sampler, order = values["schedule"], values["sampler"], values["sampler_options"].get("order", 1)
    steps, zero_snr = values["num_inference_steps"], values["zero_terminal_snr"]
    yield name in VP_ONLY and kind == "flow", "schedule", f"{name} lists noise levels of VP models; use flow_shift"
    yield name in FLOW_ONLY and kind == "vp", "schedule", f"{name} shifts the time of flow models; use trailing"
    yield (
        order > steps,
        "sampler_options.order",
        f"{sampler} of order {order} needs as many steps; ask for at least {order} steps or a lower order",
    )
    yield (
        values["sampler_options"].get("eta") == 0 and values["sampler_options"].get("s_noise", 1) != 1,
        "sampler_options.s_noise",
        f"{sampler} adds no noise at eta 0; raise eta or leave s_noise out",
    )
    yield (
        sampler == "flash" and values["sigmas"][0] < 10,
        "schedule",
        "flash takes its start for pure noise; use a schedule that begins at the largest sigma, such as trailing",
    )
    yield zero_snr and kind == "flow", "zero_terminal_snr", "a flow model ends in pure noise already; leave it out"
    yield (
        zero_snr and prediction == "eps",
        "zero_terminal_snr",
        "a noise prediction says nothing at zero terminal SNR; use a model that predicts v, or leave it out",
    )
    yield (
        zero_snr and name == "leading",
        "schedule",
        "leading never reaches the last timestep, where zero terminal SNR acts; use trailing",
    )


def _networks(values: Mapping[str, Any], kind: str) -> Iterator[Refusal]:
    named = values["initial_network"] is not None
    yield (
        named and (kind == "flow" or values["zero_terminal_snr"]),
        "initial_network",
        "this recipe starts in pure noise already; leave initial_network out",
    )
    yield (
        named and values["sampler"] == "flash",
        "initial_network",
        "flash takes its start for pure noise; use ddim or leave initial_network out",
    )
    yield (
        named and values["guidance_method"] == "cfg_pp",
        "initial_network",
        "the start is guided by a scale of cfg, which cfg_pp has not; use cfg or leave initial_network out",
    )


def _guidance(values: Mapping[str, Any], kind: str) -> Iterator[Refusal]:
    method, sampler, steps = values["guidance_method"], values["sampler"], values["num_inference_steps"]
    along = ", ".join(sorted(ALONG_EPS))
    yield (
        method == "cfg_pp" and values["guidance_scale"] > 1,
        "guidance_scale",
        "cfg_pp interpolates: its guidance_scale is at most 1 (0.6 is about as strong as 7.5 of cfg)",
    )
    yield (
        method == "cfg_pp" and sampler not in ALONG_EPS,
        "sampler",
        f"cfg_pp steps from one estimate along another, which {sampler} cannot; use one of: {along}",
    )
    yield method == "cfg_zero" and kind != "flow", "guidance_method", "cfg_zero is for flow models; use cfg or apg"
    yield (
        method == "cfg_zero" and values["guidance_scale"] == 1,
        "guidance_scale",
        "cfg_zero scales nothing at 1; raise guidance_scale or use cfg, which is off there",
    )
    yield (
        method == "cfg_zero" and values["guidance_options"]["zero_steps"] >= steps,
        "guidance_options.zero_steps",
        f"all {steps} steps would be held still; use fewer zero_steps or more steps",
    )
    yield (
        method == "cfg_zero" and values["guidance_options"]["zero_steps"] > 0 and sampler not in {"euler", "heun"},
        "guidance_options.zero_steps",
        f"{sampler} would build on the steps that cfg_zero holds still; set zero_steps to 0 or use euler",
    )


def _corrections(values: Mapping[str, Any], kind: str) -> Iterator[Refusal]:
    scaling, shift, sampler = values["epsilon_scaling"], values["time_shift"], values["sampler"]
    yield (
        scaling is not None and shift is not None,
        "time_shift",
        "epsilon_scaling and time_shift correct the same error; give one of them",
    )
    yield (
        scaling is not None and scaling.form == "x0_only" and sampler in EPS_ONLY,
        "epsilon_scaling.form",
        f"{sampler} steps along eps, which x0_only leaves alone; use the form everywhere",
    )
    yield shift is not None and kind == "flow", "time_shift", "time_shift reads the variance of VP models; leave it out"
    yield (
        shift is not None and shift.data_variance == 1,
        "time_shift.data_variance",
        "data of variance 1 has variance 1 at every timestep, so that nothing can be read from it; use epsilon_scaling",
    )


def _idle(values: Mapping[str, Any], calls: Sequence[Evaluation], process: Parameterization) -> Iterator[Refusal]:
    scaling, shift, cads = values["epsilon_scaling"], values["time_shift"], values["cads"]
    first = calls[0].sigma
    yield (
        scaling is not None and all(call.sigma > SINGULAR for call in calls),
        "epsilon_scaling",
        f"epsilon_scaling acts at sigmas up to {SINGULAR:g} and this recipe has none; add steps or leave it out",
    )
    yield (
        shift is not None and all(call.sigma >= first or call.timestep <= shift.cutoff for call in calls),
        "time_shift.cutoff",
        "time_shift acts after the first step, above its cutoff, where this recipe has no step; lower the cutoff",
    )
    latest = max(call.timestep for call in calls) / process.last_timestep
    yield (
        cads is not None and latest <= cads.tau1,
        "cads.tau1",
        f"cads noises the condition above time tau1 and this recipe starts at {latest:.3g}; lower tau1",
    )
