"""No option is accepted and ignored: another value is another result."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from service.diffusion.guidance import GUIDANCE
from service.diffusion.options import bound, options_model
from service.diffusion.parameterization import Parameterization
from service.diffusion.samplers import SAMPLERS
from service.diffusion.schedules import FLOW_ONLY, SCHEDULES
from tests.diffusion.test_mutations import FLOW, PARAMETERIZATION, guides, runs

OTHER: dict[str, Any] = {
    "eta": 0.4, "s_noise": 0.8, "order": 1, "solver": "heun", "variant": "bh1",
    "rho": 3.0, "sigma_min": 0.1, "sigma_max": 9.0, "start": 700, "offset": 0, "origin": 30, "alpha": 0.8, "beta": 0.8,
    "table": "sdxl", "shift": 2.0, "mu_256": 0.3, "mu_4096": 1.4,
    "rescale": 0.5, "momentum": -0.2, "norm_threshold": 0.5, "parallel": 0.5, "zero_steps": 0,
}  # fmt: skip


def options(functions: dict[str, Callable[..., Any]]) -> list[tuple[str, str]]:
    return [(name, option) for name, function in functions.items() for option in options_model(function).model_fields]


def test_every_other_value_is_allowed_and_no_default() -> None:
    for functions in (SAMPLERS, SCHEDULES, GUIDANCE):
        for name, option in options(functions):
            model = options_model(functions[name])
            assert getattr(model(**{option: OTHER[option]}), option) != getattr(model(), option)


@pytest.mark.parametrize(("sampler", "option"), options(SAMPLERS))
def test_options_of_samplers_are_heard(sampler: str, option: str) -> None:
    module = type("Module", (), {sampler: staticmethod(SAMPLERS[sampler])})
    usual, other = (runs(sampler, **given)(module)[-1] for given in ({}, {option: OTHER[option]}))
    assert not np.allclose(usual, other, rtol=1e-4)


@pytest.mark.parametrize(("schedule", "option"), options(SCHEDULES))
def test_options_of_schedules_are_heard(schedule: str, option: str) -> None:
    process: Parameterization = FLOW if schedule in FLOW_ONLY else PARAMETERIZATION
    usual, other = (
        bound(SCHEDULES[schedule], given, {"latent_pixels": 6400})(process.noise_levels, 6)
        for given in ({}, {option: OTHER[option]})
    )
    assert not np.allclose(usual, other, rtol=1e-4)


@pytest.mark.parametrize(("method", "option"), options(GUIDANCE))
def test_options_of_guidance_are_heard(method: str, option: str) -> None:
    module = type("Module", (), {method: staticmethod(GUIDANCE[method])})
    usual, other = (guides(method, 4.0, FLOW, **given)(module) for given in ({}, {option: OTHER[option]}))
    assert not all(np.allclose(a, b, rtol=1e-4) for a, b in zip(usual, other, strict=True))
