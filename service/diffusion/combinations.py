"""Combinations that cannot work, each refused with a sentence that says what to do instead."""

from collections.abc import Iterator, Mapping
from typing import Any

from service.diffusion.samplers import ALONG_EPS, EPS_ONLY
from service.diffusion.schedules import FLOW_ONLY, VP_ONLY
from service.errors import InvalidRequest

Refusal = tuple[bool, str, str]  # is it so, field, sentence


def refuse_impossible(values: Mapping[str, Any], kind: str, prediction: str) -> None:
    """Raise InvalidRequest for the first impossible combination in the resolved values of a recipe."""
    refusals = (*_schedule(values, kind, prediction), *_guidance(values, kind), *_corrections(values, kind))
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


def _guidance(values: Mapping[str, Any], kind: str) -> Iterator[Refusal]:
    method, sampler = values["guidance_method"], values["sampler"]
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
