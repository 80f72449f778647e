"""Our samplers equal diffusers' step by step: same network, same noise, same sigmas, in double precision."""

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from service.diffusion.options import bound
from service.diffusion.samplers import SAMPLERS
from service.diffusion.schedules import FLOW_ONLY, SCHEDULES
from service.diffusion.types import Array
from tests.diffusion.oracle import BETAS, PREDICTIONS, oracle_trajectory, ours, scheduler, trajectory_of


class Twin(NamedTuple):
    """One of our samplers and what computes the same in diffusers."""

    sampler: str
    options: dict[str, Any]
    scheduler: str
    config: dict[str, Any]
    step: dict[str, Any] = {}  # noqa: RUF012 - arguments of its step()


MULTISTEP, SDE = "DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}
X = np.random.default_rng(0).standard_normal((2, 3, 4))
NOISES = np.random.default_rng(1).standard_normal((60, *X.shape))

TWINS = {
    "euler": Twin("euler", {}, "EulerDiscreteScheduler", {}),
    "euler_ancestral": Twin("euler_ancestral", {}, "EulerAncestralDiscreteScheduler", {}),
    "heun": Twin("heun", {}, "HeunDiscreteScheduler", {}),
    "dpmpp_sde": Twin("dpmpp_sde", {}, "DPMSolverSDEScheduler", {}),
    "dpmpp_2m": Twin("dpmpp_2m", {}, MULTISTEP, {}),
    "dpmpp_2m_sde": Twin("dpmpp_2m_sde", {}, MULTISTEP, SDE, {"variance_noise": NOISES}),
    "dpmpp_2m_sde-heun": Twin(
        "dpmpp_2m_sde", {"solver": "heun"}, MULTISTEP, SDE | {"solver_type": "heun"}, {"variance_noise": NOISES}
    ),
    **{
        f"unipc-{order}-{variant}": Twin(
            "unipc",
            {"order": order, "variant": variant},
            "UniPCMultistepScheduler",
            {"solver_order": order, "solver_type": variant, "final_sigmas_type": "zero"},
        )
        for order in (1, 2, 3)
        for variant in ("bh1", "bh2")
    },
    **{f"deis-{n}": Twin("deis", {"order": n}, "DEISMultistepScheduler", {"solver_order": n}) for n in (1, 2, 3)},
}
# Schedulers that take trained timesteps only, not sigmas: on "trailing", where both have them.
DISCRETE = {
    "ddim": Twin("ddim", {}, "DDIMScheduler", {"clip_sample": False, "timestep_spacing": "trailing"}),
    "ddim-eta": Twin(
        "ddim",
        {"eta": 0.6},
        "DDIMScheduler",
        {"clip_sample": False, "timestep_spacing": "trailing"},
        {"eta": 0.6, "variance_noise": NOISES},
    ),
    "lcm": Twin("lcm", {}, "LCMScheduler", {"original_inference_steps": 50}),
    "tcd": Twin("tcd", {"eta": 0.3}, "TCDScheduler", {"original_inference_steps": 50}, {"eta": 0.3}),
    "tcd-eta1": Twin("tcd", {"eta": 1.0}, "TCDScheduler", {"original_inference_steps": 50}, {"eta": 1.0}),
    "tcd-eta0": Twin("tcd", {"eta": 0.0}, "TCDScheduler", {"original_inference_steps": 50}, {"eta": 0.0}),
}


class BrownianPath:
    """The noise sampler of DPMSolverSDEScheduler over the increments that our sampler is given."""

    def __init__(self, sigmas: Array, noises: Array, dtype: Any = np.float64) -> None:
        self._dtype = dtype
        middles = np.sqrt(sigmas[:-2] * sigmas[1:-1])
        self._levels = np.append(np.stack([sigmas[:-2], middles], 1).ravel(), sigmas[-2])
        increments = [n * np.sqrt(a - b) for n, a, b in zip(noises, self._levels, self._levels[1:], strict=False)]
        self._path = np.concatenate([np.zeros((1, *noises.shape[1:])), np.cumsum(increments, axis=0)])

    def __call__(self, sigma: torch.Tensor, sigma_next: torch.Tensor) -> torch.Tensor:
        i, j = (int(np.abs(self._levels - float(s)).argmin()) for s in (sigma, sigma_next))
        increment = (self._path[j] - self._path[i]) / np.sqrt(self._levels[i] - self._levels[j])
        return torch.from_numpy(increment.astype(self._dtype))


def trajectories(
    twin: Twin, sigmas: Array, prediction: str, betas: str, dtype: Any = np.float64
) -> tuple[list[Array], list[Array]]:
    parameterization, denoise = ours(prediction, betas, dtype, dtype)
    sampler = bound(SAMPLERS[twin.sampler], twin.options, {"parameterization": parameterization})
    x = parameterization.initial(X, sigmas[0])
    mine = trajectory_of(sampler, denoise, x, sigmas, NOISES)
    config = BETAS[betas] | {"prediction_type": PREDICTIONS[prediction]} | twin.config
    with scheduler(twin.scheduler, NOISES, dtype, **config) as oracle:
        path = BrownianPath(sigmas, NOISES, dtype)
        theirs = oracle_trajectory(oracle, parameterization, x, sigmas, twin.step, path, dtype)
    return mine, theirs


def assert_equal_trajectories(mine: list[Array], theirs: list[Array], tolerance: float) -> None:
    assert len(mine) == len(theirs)
    for a, b in zip(mine, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * np.abs(b).max())


def assert_equal_but_for_the_end(twin: Twin, mine: list[Array], theirs: list[Array], x0: Array) -> None:
    """diffusers' DEIS and UniPC "bh1" compute 0 * infinity in the step to sigma 0; its limit is x0."""
    assert np.isnan(theirs[-1]).all(), twin
    np.testing.assert_array_equal(mine[-1], x0)
    assert_equal_trajectories(mine[:-1], theirs[:-1], 1e-9)


# 17 steps: above diffusers' limit of 15, below which the last steps are of lower order
@pytest.mark.parametrize(("prediction", "n"), [("eps", 10), ("v", 17)])
@pytest.mark.parametrize("schedule", sorted(set(SCHEDULES) - FLOW_ONLY))
@pytest.mark.parametrize("twin", TWINS)
def test_equal_step_by_step(twin: str, schedule: str, prediction: str, n: int) -> None:
    parameterization, denoise = ours(prediction, "scaled_linear")
    sigmas = SCHEDULES[schedule](parameterization.noise_levels, n)
    mine, theirs = trajectories(TWINS[twin], sigmas, prediction, "scaled_linear")
    if twin.startswith("deis") or twin.endswith("bh1"):
        assert_equal_but_for_the_end(TWINS[twin], mine, theirs, denoise(mine[-2], float(sigmas[-2])).x0)
    else:
        assert_equal_trajectories(mine, theirs, 1e-9)


@pytest.mark.parametrize("n", [4, 10])
@pytest.mark.parametrize("prediction", ["eps", "v"])
@pytest.mark.parametrize("twin", DISCRETE)
def test_equal_on_trained_timesteps(twin: str, prediction: str, n: int) -> None:
    """LCM: up to boundary scalings of 1e-6. TCD ends at the first trained noise level there, at x0 here."""
    parameterization, denoise = ours(prediction, "scaled_linear")
    sigmas = SCHEDULES["trailing"](parameterization.noise_levels, n)
    mine, theirs = trajectories(DISCRETE[twin], sigmas, prediction, "scaled_linear")
    if DISCRETE[twin].sampler == "tcd":
        level = parameterization.noise_levels[0]
        x0, eps = denoise(mine[-2], float(sigmas[-2]))
        np.testing.assert_array_equal(mine[-1], x0)
        np.testing.assert_allclose((x0 + level * eps) / np.hypot(1, level), theirs[-1], rtol=1e-9, atol=1e-9)
        mine, theirs = mine[:-1], theirs[:-1]
    assert_equal_trajectories(mine, theirs, 1e-5 if twin == "lcm" else 1e-9)


@pytest.mark.parametrize("betas", ["linear", "squaredcos"])
@pytest.mark.parametrize("twin", ["euler", "heun", "dpmpp_2m", "dpmpp_2m_sde", "unipc-2-bh2"])
def test_equal_on_other_processes(twin: str, betas: str) -> None:
    sigmas = SCHEDULES["trailing"](ours("v", betas)[0].noise_levels, 10)
    assert_equal_trajectories(*trajectories(TWINS[twin], sigmas, "v", betas), 1e-8)
