"""Our samplers equal diffusers' step by step: same network, same noise, same sigmas, in double precision."""

from functools import partial
from typing import Any

import numpy as np
import pytest

from service.diffusion.samplers import SAMPLERS
from service.diffusion.schedules import SCHEDULES
from tests.diffusion.oracle import BETAS, PREDICTIONS, oracle_trajectory, ours, scheduler, trajectory_of

MULTISTEP = "DPMSolverMultistepScheduler"

# sampler -> (its options, diffusers' scheduler, its configuration)
TWINS: dict[str, tuple[str, dict[str, Any], str, dict[str, Any]]] = {
    "euler": ("euler", {}, "EulerDiscreteScheduler", {}),
    "euler_ancestral": ("euler_ancestral", {}, "EulerAncestralDiscreteScheduler", {}),
    "heun": ("heun", {}, "HeunDiscreteScheduler", {}),
    "dpmpp_2m": ("dpmpp_2m", {}, MULTISTEP, {}),
    "dpmpp_2m_sde": ("dpmpp_2m_sde", {}, MULTISTEP, {"algorithm_type": "sde-dpmsolver++"}),
    "dpmpp_2m_sde-heun": (
        "dpmpp_2m_sde",
        {"solver": "heun"},
        MULTISTEP,
        {"algorithm_type": "sde-dpmsolver++", "solver_type": "heun"},
    ),
}
X = np.random.default_rng(0).standard_normal((2, 3, 4))
NOISES = np.random.default_rng(1).standard_normal((40, *X.shape))


def trajectories(
    twin: str, schedule: str, prediction: str, betas: str, n: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    name, options, oracle_name, config = TWINS[twin]
    parameterization, denoise = ours(prediction, betas)
    sigmas = SCHEDULES[schedule](parameterization.noise_levels, n)
    x = parameterization.initial(X, sigmas[0])
    mine = trajectory_of(partial(SAMPLERS[name], **options), denoise, x, sigmas, NOISES)
    step = {"variance_noise": NOISES} if "sde" in str(config) else {}
    with scheduler(oracle_name, NOISES, **BETAS[betas], prediction_type=PREDICTIONS[prediction], **config) as oracle:
        theirs = oracle_trajectory(oracle, parameterization, x, sigmas, **step)
    return mine, theirs


@pytest.mark.parametrize("n", [10, 17])
@pytest.mark.parametrize("prediction", ["eps", "v"])
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("twin", TWINS)
def test_equal_step_by_step(twin: str, schedule: str, prediction: str, n: int) -> None:
    mine, theirs = trajectories(twin, schedule, prediction, "scaled_linear", n)
    assert len(mine) == len(theirs)
    for a, b in zip(mine, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10 * np.abs(b).max())
