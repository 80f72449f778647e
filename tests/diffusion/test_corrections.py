"""Time shift, "x0 only" scaling, and CADS."""

from itertools import pairwise

import numpy as np
import pytest

from service.diffusion.conditioning import cads, transformed
from service.diffusion.corrections import epsilon_scaling, time_shift
from service.diffusion.samplers import SAMPLERS
from service.diffusion.schedules import SCHEDULES
from service.diffusion.types import Array, Denoised
from tests.diffusion.oracle import ours

P = ours("eps", "scaled_linear")[0]
SIGMAS = SCHEDULES["trailing"](P.noise_levels, 10)
X = np.random.default_rng(0).standard_normal((4, 16, 16))


def denoise(x: Array, sigma: float) -> Denoised:
    x0 = np.tanh(x)
    return Denoised(x0, (x - x0) / sigma)


def test_x0_only_in_ddim_leaves_the_direction_term_alone() -> None:
    """The latent-diffusion code of the authors: x' = alpha' x0(eps / lambda) + sigma' eps, here in VP notation."""
    vp = X
    for sigma, following in pairwise(SIGMAS):
        alpha, alpha_next = 1 / np.hypot(1, sigma), 1 / np.hypot(1, following)
        eps = denoise(vp / alpha, sigma).eps
        x0 = (vp - sigma * alpha * eps / 1.01) / alpha
        vp = alpha_next * x0 + following * alpha_next * eps
    scaled = epsilon_scaling(SIGMAS, 1.01, form="x0_only")(denoise)
    np.testing.assert_allclose(SAMPLERS["ddim"](scaled, P.initial(X, SIGMAS[0]), SIGMAS, None), vp, rtol=1e-9)
    everywhere = SAMPLERS["ddim"](epsilon_scaling(SIGMAS, 1.01)(denoise), P.initial(X, SIGMAS[0]), SIGMAS, None)
    assert not np.allclose(everywhere, vp)


def reference_timestep(x_vp: Array, timestep: int, window: int, variance: float) -> int:
    """Li et al. 2024, alg. 3: the step of the window whose variance is nearest, data variance included."""
    candidates = range(max(0, timestep - window // 2), min(999, timestep + window // 2) + 1)
    abar = 1 / (1 + P.noise_levels**2)
    target = {t: abar[t] * variance + 1 - abar[t] for t in candidates}
    return min(candidates, key=lambda t: (target[t] - x_vp.var(ddof=1)) ** 2)


@pytest.mark.parametrize("factor", [0.97, 1.0, 1.02])
@pytest.mark.parametrize("window", [2, 30])
@pytest.mark.parametrize("data_variance", [0.25, 4.0])
def test_time_shift_reads_the_network_at_the_matching_timestep(
    factor: float, window: int, data_variance: float
) -> None:
    seen: list[tuple[Array, float]] = []

    def network(x: Array, sigma: float) -> Denoised:
        seen.append((x * P.input_scale(sigma), P.sigma_to_timestep(sigma)))
        return denoise(x, sigma)

    sigma = float(SIGMAS[3])
    x = factor * np.sqrt(data_variance + sigma**2) * X
    time_shift(P, SIGMAS, window, 300.0, data_variance)(network)(x, sigma)
    ((x_vp, timestep),) = seen
    np.testing.assert_allclose(x_vp, x * P.input_scale(sigma), rtol=1e-12)  # the same array, another clock
    assert timestep == reference_timestep(x * P.input_scale(sigma), 699, window, data_variance)
    assert (timestep != 699) == (factor != 1.0 or abs(X.var(ddof=1) - 1) > 0.01)


def test_time_shift_recovers_the_true_noise_level() -> None:
    """A sample that lags 25 timesteps behind its schedule is read at its own level."""
    rng, true = np.random.default_rng(1), P.noise_levels[525]
    x_vp = (0.5 * rng.standard_normal(400_000) + true * rng.standard_normal(400_000)) / np.hypot(1, true)
    sigma, seen = float(P.noise_levels[500]), []

    def network(x: Array, level: float) -> Denoised:
        seen.append(P.sigma_to_timestep(level))
        return denoise(x, level)

    time_shift(P, SIGMAS, 80, 300.0, 0.25)(network)(x_vp * np.hypot(1, sigma), sigma)
    assert seen == [pytest.approx(525, abs=4)]


@pytest.mark.parametrize(("sigma", "why"), [(SIGMAS[0], "first step"), (SIGMAS[8], "below the cutoff")])
def test_time_shift_leaves_the_first_step_and_the_end_alone(sigma: float, why: str) -> None:
    mine = time_shift(P, SIGMAS, 40, 300.0, 0.25)(denoise)(1.3 * sigma * X, float(sigma))
    np.testing.assert_array_equal(mine.x0, denoise(1.3 * sigma * X, float(sigma)).x0, err_msg=why)


Y = {"encoder_hidden_states": np.random.default_rng(5).standard_normal((77, 32)).astype(np.float32) * 3 + 1}


@pytest.mark.parametrize(("time", "gamma"), [(0.95, 0.0), (0.9, 0.0), (0.75, 0.5), (0.66, 0.8)])
@pytest.mark.parametrize("mixing", [1.0, 0.3])
def test_cads_is_the_papers_formula(time: float, gamma: float, mixing: float) -> None:
    mine = cads(np.random.default_rng(9), 0.6, 0.9, 0.2, mixing)(Y, time)["encoder_hidden_states"]
    y = Y["encoder_hidden_states"].astype(np.float64)
    noise = np.random.default_rng(9).standard_normal(y.shape)
    noisy = np.sqrt(gamma) * y + 0.2 * y.std() * np.sqrt(1 - gamma) * noise
    rescaled = (noisy - noisy.mean()) / noisy.std() * y.std() + y.mean()
    np.testing.assert_allclose(mine, mixing * rescaled + (1 - mixing) * noisy, rtol=1e-4, atol=1e-5)
    assert mine.dtype == np.float32


@pytest.mark.parametrize("time", [0.0, 0.3, 0.6])
def test_cads_is_silent_at_the_end_and_keeps_the_very_same_arrays(time: float) -> None:
    assert cads(np.random.default_rng(0), 0.6, 0.9, 0.2, 1.0)(Y, time) is Y


def test_cads_rescales_to_the_statistics_of_the_condition_and_leaves_facts_alone() -> None:
    arrays = {**Y, "time_ids": np.array([512.0, 512.0, 0.0])}
    noisy = cads(np.random.default_rng(0), 0.6, 0.9, 0.25, 1.0)(arrays, 1.0)
    assert noisy["time_ids"] is arrays["time_ids"]
    y, annealed = Y["encoder_hidden_states"], noisy["encoder_hidden_states"]
    assert (annealed.mean(), annealed.std()) == (pytest.approx(y.mean(), abs=1e-5), pytest.approx(y.std(), rel=1e-5))
    assert abs(np.corrcoef(annealed.ravel(), y.ravel())[0, 1]) < 0.05


def test_transforms_fold_first_one_first() -> None:
    doubled = transformed(
        [lambda a, _t: {k: v + 1 for k, v in a.items()}, lambda a, t: {k: v * t for k, v in a.items()}], Y, 2.0
    )
    np.testing.assert_array_equal(doubled["encoder_hidden_states"], (Y["encoder_hidden_states"] + 1) * 2)
