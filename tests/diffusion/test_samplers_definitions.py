"""Samplers that diffusers lacks, or has otherwise: k-diffusion's update or the paper's integral, written out here."""

from itertools import pairwise

import numpy as np
import pytest
from scipy.integrate import quad

from service.diffusion.options import bound
from service.diffusion.samplers import ALONG_EPS, EPS_ONLY, SAMPLERS
from service.diffusion.schedules import SCHEDULES
from service.diffusion.types import Array, Denoised
from tests.diffusion.oracle import BETAS, oracle_trajectory, ours, scheduler, trajectory_of
from tests.diffusion.test_samplers_diffusers import assert_equal_trajectories

PARAMETERIZATION, DENOISE = ours("v", "scaled_linear")
X = np.random.default_rng(0).standard_normal((2, 3, 4))
NOISES = np.random.default_rng(1).standard_normal((60, *X.shape))
START = {name: SCHEDULES[name](PARAMETERIZATION.noise_levels, 9) for name in ("karras", "ays", "trailing", "beta")}


def ran(name: str, sigmas: Array, **options: object) -> list[Array]:
    sampler = bound(SAMPLERS[name], options, {"parameterization": PARAMETERIZATION})
    return trajectory_of(sampler, DENOISE, PARAMETERIZATION.initial(X, sigmas[0]), sigmas, NOISES)


def ancestral(sigma: float, following: float, eta: float) -> tuple[float, float]:
    """k-diffusion's get_ancestral_step."""
    up = min(following, eta * (following**2 * (sigma**2 - following**2) / sigma**2) ** 0.5)
    return (following**2 - up**2) ** 0.5, up


@pytest.mark.parametrize("schedule", START)
@pytest.mark.parametrize("eta", [1.0, 0.4])
def test_dpmpp_2s_ancestral_is_k_diffusions(schedule: str, eta: float) -> None:
    """t = -log sigma; a midpoint at t + h / 2, then the whole step with its estimate, then noise."""
    sigmas, noises = START[schedule], iter(NOISES)
    x = PARAMETERIZATION.initial(X, sigmas[0])
    expected = [x]
    for sigma, following in pairwise(sigmas):
        down, up = ancestral(sigma, following, eta)
        x0 = DENOISE(x, sigma).x0
        if down == 0:
            x = x + (x - x0) / sigma * (down - sigma)
        else:
            t, t_next = -np.log(sigma), -np.log(down)
            h = t_next - t
            s = t + h / 2
            middle = np.exp(-s) / np.exp(-t) * x - np.expm1(-h / 2) * x0
            expected.append(middle)
            x = np.exp(-t_next) / np.exp(-t) * x - np.expm1(-h) * DENOISE(middle, np.exp(-s)).x0
        if following > 0:
            x = x + next(noises) * 1.1 * up
        expected.append(x)
    assert_equal_trajectories(ran("dpmpp_2s_ancestral", sigmas, eta=eta, s_noise=1.1), expected, 1e-9)


@pytest.mark.parametrize("schedule", START)
@pytest.mark.parametrize("eta", [1.0, 0.4])
def test_dpmpp_3m_sde_is_k_diffusions(schedule: str, eta: float) -> None:
    """sample_dpmpp_3m_sde: phi_2 on the derivative, phi_3 on the curvature, ratios in units of the present step."""
    sigmas = START[schedule]
    x = PARAMETERIZATION.initial(X, sigmas[0])
    expected, old, steps = [x], [], []
    for i, (sigma, following) in enumerate(pairwise(sigmas)):
        x0 = DENOISE(x, sigma).x0
        if following == 0:
            expected.append(x0)
            break
        h = np.log(sigma) - np.log(following)
        h_eta = h * (eta + 1)
        x = np.exp(-h_eta) * x + -np.expm1(-h_eta) * x0
        phi_2 = np.expm1(-h_eta) / h_eta + 1
        phi_3 = phi_2 / h_eta - 0.5
        if i == 1:
            x = x + phi_2 * (x0 - old[-1]) / (steps[-1] / h)
        if i > 1:
            r0, r1 = steps[-1] / h, steps[-2] / h
            d1_0, d1_1 = (x0 - old[-1]) / r0, (old[-1] - old[-2]) / r1
            d1, d2 = d1_0 + (d1_0 - d1_1) * r0 / (r0 + r1), (d1_0 - d1_1) / (r0 + r1)
            x = x + phi_2 * d1 - phi_3 * d2
        x = x + NOISES[i] * following * np.sqrt(-np.expm1(-2 * h * eta)) * 0.9
        expected.append(x)
        old.append(x0)
        steps.append(h)
    assert_equal_trajectories(ran("dpmpp_3m_sde", sigmas, eta=eta, s_noise=0.9), expected, 1e-9)


def test_diffusers_third_order_differs_by_one_whole_curvature_term() -> None:
    """Its weight is (1 - exp(-u) - u) / u^2 - 1/2; Taylor and k-diffusion have + 1/2. The first such step shows it."""
    sigmas = START["karras"]
    config = BETAS["scaled_linear"] | {"prediction_type": "v_prediction", "solver_order": 3, "solver_type": "heun"}
    with scheduler("DPMSolverMultistepScheduler", **config, algorithm_type="sde-dpmsolver++") as oracle:
        x = PARAMETERIZATION.initial(X, sigmas[0])
        theirs = oracle_trajectory(oracle, PARAMETERIZATION, x, sigmas, {"variance_noise": NOISES})
    mine = ran("dpmpp_3m_sde", sigmas)
    assert_equal_trajectories(mine[:3], theirs[:3], 1e-9)
    x0s = [DENOISE(x, sigma).x0 for x, sigma in zip(mine[:3], sigmas, strict=False)]
    h_2, h_1, h = np.log(sigmas[:3] / sigmas[1:4])
    curvature = ((x0s[2] - x0s[1]) * h / h_1 - (x0s[1] - x0s[0]) * h / h_2) * h / (h_1 + h_2)
    np.testing.assert_allclose(mine[3] - theirs[3], curvature, rtol=1e-8)


def phi(sigma: float) -> float:
    return sigma * (np.exp(sigma**0.3) + 10)


def kernel(sigma: float, following: float, power: int) -> float:
    """The weight of a Taylor term of x0: phi(t) times the integral of (s - sigma)^power phi'(s) / phi(s)^2."""

    def integrand(log_s: float) -> float:
        s = np.exp(log_s)
        slope = np.exp(s**0.3) * (1 + 0.3 * s**0.3) + 10
        return (s - sigma) ** power * slope / phi(s) ** 2 * s

    return phi(following) * quad(integrand, np.log(following), np.log(sigma), epsabs=1e-13, epsrel=1e-12)[0]


@pytest.mark.parametrize("schedule", START)
@pytest.mark.parametrize("order", [1, 2, 3])
def test_er_sde_integrates_the_polynomial_through_its_history(schedule: str, order: int) -> None:
    """Cui et al. 2023: the exact solution of the SDE for x0 a Taylor polynomial in sigma by finite differences."""
    sigmas = START[schedule]
    x = PARAMETERIZATION.initial(X, sigmas[0])
    expected, x0s, slopes = [x], [], []
    for i, (sigma, following) in enumerate(pairwise(sigmas)):
        x0s.append(DENOISE(x, sigma).x0)
        if following == 0:
            expected.append(x0s[-1])
            break
        ratio = phi(following) / phi(sigma)
        x = ratio * x + kernel(sigma, following, 0) * x0s[-1]
        if i >= 1:
            slopes.append((x0s[-1] - x0s[-2]) / (sigma - sigmas[i - 1]))
            if order > 1:
                x = x + kernel(sigma, following, 1) * slopes[-1]
        if i >= 2 and order > 2:
            curvature = (slopes[-1] - slopes[-2]) / ((sigma - sigmas[i - 2]) / 2)
            x = x + kernel(sigma, following, 2) / 2 * curvature
        x = x + NOISES[i] * np.sqrt(following**2 - sigma**2 * ratio**2)
        expected.append(x)
    assert_equal_trajectories(ran("er_sde", sigmas, order=order), expected, 1e-8)


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_flash_is_ddim_but_for_the_first_direction(n: int) -> None:
    """Imagine Flash, noise correction in VP notation: x' = alpha' x0(x_T) + sigma' x_T at T, DDIM steps after it."""
    sigmas = SCHEDULES["trailing"](PARAMETERIZATION.noise_levels, n)
    noise, vp = X, X
    for i, (sigma, following) in enumerate(pairwise(sigmas)):
        x0, eps = DENOISE(vp * np.hypot(1, sigma), sigma)
        alpha = 1 / np.hypot(1, following)
        vp = alpha * x0 + following * alpha * (noise if i == 0 else eps)
    np.testing.assert_allclose(ran("flash", sigmas)[-1], vp, rtol=1e-9, atol=1e-9)


def test_noise_correction_restores_the_colour_that_a_biased_network_loses() -> None:
    """A network that calls part of the noise picture at T: with the true noise the next step is at its level again."""

    def biased(x: Array, sigma: float) -> Denoised:
        x0 = 0.05 * x / np.hypot(1, sigma)
        return Denoised(x0, 0.8 * (x - x0) / sigma)

    sigmas = np.array([100.0, 10.0])
    x = 100.0 * np.random.default_rng(0).standard_normal(10_000)
    flash, ddim = (float(np.std(SAMPLERS[name](biased, x, sigmas, None))) for name in ("flash", "ddim"))
    assert abs(flash - 10) < 0.15 < 1 < abs(ddim - 10)


@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers_that_step_along_eps_are_listed(name: str) -> None:
    """One step to sigma 1 with an x0 and an eps that disagree: is it x0 + sigma' eps, or blind to one of them?"""

    def disagreeing(x0: float, eps: float) -> Array:
        sampler = bound(SAMPLERS[name], {}, {"parameterization": PARAMETERIZATION})
        zero = np.zeros(1)
        return sampler(lambda *_: Denoised(zero + x0, zero + eps), zero + 3, np.array([12.0, 1.0]), lambda *_: zero)

    reads_x0 = not np.allclose(disagreeing(2.0, 5.0), disagreeing(2.5, 5.0))
    reads_eps = not np.allclose(disagreeing(2.0, 5.0), disagreeing(2.0, 5.5))
    if name == "flash":  # its first direction is the noise; the steps after it go along eps
        assert reads_x0
    elif name == "heun":  # reads x0 only to propose where the second slope is taken
        assert reads_eps
    else:
        assert (reads_x0 and reads_eps) == (name in ALONG_EPS)
        assert (reads_eps and not reads_x0) == (name in EPS_ONLY)
