"""Our samplers as the service runs them equal diffusers as people run it: networks and diffusers in float32.

Our state is float64 and the network's inputs and outputs are float32; diffusers is unmodified: float32 alphas, sigmas
and state. All are within 1e-5 of each other, relative to the largest value of x, step by step.

But for DEIS of order 2 and 3: diffusers integrates its polynomials in float32 as differences of terms that are much
larger than what is left. There both are held against float64 throughout, from which ours is less than 1e-6 away and
diffusers up to 8e-4 (beta_sigma, 17 steps).
"""

import numpy as np
import pytest

from service.diffusion.options import bound
from service.diffusion.samplers import SAMPLERS
from service.diffusion.schedules import FLOW_ONLY, SCHEDULES
from service.diffusion.types import Array
from tests.diffusion.oracle import ours, trajectory_of
from tests.diffusion.test_samplers_diffusers import DISCRETE, NOISES, TWINS, Twin, X, trajectories

VP = sorted(set(SCHEDULES) - FLOW_ONLY)


def all_three(twin: Twin, schedule: str, n: int) -> tuple[list[Array], list[Array], list[Array]]:
    """The trajectories of ours and of diffusers in float32, and of ours with a network in float64."""
    parameterization, denoise = ours("v", "scaled_linear", np.float64, np.float32)
    sigmas = SCHEDULES[schedule](parameterization.noise_levels, n)
    mine, theirs = trajectories(twin, sigmas, "v", "scaled_linear", np.float32)
    sampler = bound(SAMPLERS[twin.sampler], twin.options, {"parameterization": parameterization})
    exact = trajectory_of(sampler, denoise, parameterization.initial(X, sigmas[0]), sigmas, NOISES)
    return mine, theirs, exact


def distance(ours: list[Array], others: list[Array]) -> float:
    """The largest difference of a step, relative to the largest value there."""
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(ours, others, strict=True))


@pytest.mark.parametrize("schedule", VP)
@pytest.mark.parametrize("name", [name for name in TWINS if name not in ("deis-2", "deis-3")])
def test_equal_step_by_step(name: str, schedule: str) -> None:
    mine, theirs, exact = all_three(TWINS[name], schedule, 17)
    assert distance(mine, exact) < 1e-6
    if np.isnan(theirs[-1]).all():  # 0 * infinity in their step to sigma 0: see test_samplers_diffusers
        mine, theirs = mine[:-1], theirs[:-1]
    assert distance(mine, theirs) < 1e-5


@pytest.mark.parametrize("n", [4, 10])
@pytest.mark.parametrize("name", DISCRETE)
def test_equal_on_trained_timesteps(name: str, n: int) -> None:
    """TCD ends at the first trained noise level there, at x0 here."""
    mine, theirs, exact = all_three(DISCRETE[name], "trailing", n)
    assert distance(mine, exact) < 1e-6
    last = len(mine) - 1 if name.startswith("tcd") else len(mine)
    assert distance(mine[:last], theirs[:last]) < 1e-5


def test_deis_is_lost_in_diffusers_own_float32_and_not_in_ours() -> None:
    runs = [all_three(TWINS[name], schedule, 17) for name in ("deis-2", "deis-3") for schedule in VP]
    assert max(distance(mine, exact) for mine, _, exact in runs) < 1e-6
    assert 1e-4 < max(distance(theirs[:-1], exact[:-1]) for _, theirs, exact in runs) < 1e-3
