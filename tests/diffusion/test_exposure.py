"""Epsilon scaling: constants that are known, and Euler on Gaussian data, where the best one is in closed form."""

from itertools import pairwise

import numpy as np
import pytest
from scipy.optimize import brentq, minimize_scalar

from service.diffusion import exposure
from service.diffusion.corrections import epsilon_scaling
from service.diffusion.exposure import OFF, RANGE, TOLERANCE, Constants
from service.diffusion.multistep import dpmpp_2m
from service.diffusion.ode import euler
from service.diffusion.types import Array, Denoised
from tests.diffusion import mixture

C = 0.5
SIGMAS = np.append(np.geomspace(15, 0.05, 12), 0.0)


def gaussian(x: Array, sigma: float) -> Denoised:
    x0 = C**2 / (C**2 + sigma**2) * x
    return Denoised(x0, (x - x0) / sigma)


def shrinkage(scale: float) -> float:
    """What Euler with scaled eps leaves of x."""
    return float(np.prod([1 - (s - t) * s / (s**2 + C**2) / scale for s, t in pairwise(SIGMAS)]))


EXACT = C / np.hypot(C, SIGMAS[0])  # what the ODE leaves of it
BEST = float(brentq(lambda scale: shrinkage(scale) - EXACT, 1.0, 1.2))


def test_the_search_finds_the_scale_in_closed_form_for_euler_on_gaussian_data() -> None:
    x = np.random.default_rng(0).standard_normal(64) * np.hypot(C, SIGMAS[0])

    def distance(constants: Constants) -> float:
        wrapped = epsilon_scaling(SIGMAS, *constants)(gaussian)
        return float(np.linalg.norm(euler(wrapped, x, SIGMAS, lambda *_: x) - EXACT * x))

    scale = exposure.golden(lambda value: distance(Constants(value, 0.0)), *RANGE, TOLERANCE)
    assert scale == pytest.approx(BEST, abs=TOLERANCE)
    found = exposure.search(distance, len(SIGMAS) - 1, OFF)
    assert distance(found) <= distance(Constants(round(scale, 5), 0.0)) < distance(OFF)


def test_the_norm_ratio_is_below_one_where_the_best_scale_is_above() -> None:
    """Why the ratio alone does not give the constants."""
    left = np.cumprod([1.0, *(1 - (s - t) * s / (s**2 + C**2) for s, t in pairwise(SIGMAS))])[:-1]
    ratios = left / (np.hypot(C, SIGMAS[:-1]) / np.hypot(C, SIGMAS[0]))  # eps is linear in x
    assert BEST > 1.01
    assert ratios[1:].max() < 1
    assert exposure.line(ratios).scale < 1


def test_the_norm_ratio_is_one_for_an_exact_denoiser_in_small_steps() -> None:
    fine = np.append(np.geomspace(15, 0.05, 2000), 0.0)
    start = np.random.default_rng(0).standard_normal(500) * 15
    ratios = []

    def watched(x: Array, sigma: float) -> Denoised:
        denoised = mixture.denoise(x, sigma)
        if len(seen) % 500 == 0:
            exact = mixture.denoise(mixture.transported(start, 15.0, sigma), sigma)
            ratios.append(np.linalg.norm(denoised.eps) / np.linalg.norm(exact.eps))
        seen.append(sigma)
        return denoised

    seen: list[float] = []
    dpmpp_2m(watched, start, fine, lambda *_: start)
    np.testing.assert_allclose(ratios, 1, atol=1e-3)
    assert exposure.line(np.array(ratios)) == pytest.approx(OFF, abs=1e-3)


def test_a_known_bias_is_recovered() -> None:
    x = np.random.default_rng(0).standard_normal(200) * 15
    target = euler(mixture.denoise, x, SIGMAS, lambda *_: x)

    def biased(y: Array, sigma: float) -> Denoised:
        x0, eps = mixture.denoise(y, sigma)
        return Denoised(y - 1.02 * (y - x0), 1.02 * eps)

    def distance(constants: Constants) -> float:
        made = euler(epsilon_scaling(SIGMAS, *constants)(biased), x, SIGMAS, lambda *_: x)
        return float(np.linalg.norm(made - target))

    found = exposure.search(distance, len(SIGMAS) - 1, OFF)
    assert found.scale == pytest.approx(1.02, abs=2 * TOLERANCE)
    assert found.slope * 11 < 2 * TOLERANCE


def test_a_known_line_is_recovered() -> None:
    index = np.arange(20)[::-1]
    assert exposure.line(1.003 + 0.0008 * index) == pytest.approx((1.003, 0.0008), abs=1e-5)
    assert exposure.line(1.02 - 0.0008 * index) == pytest.approx((1.02 - 0.0008 * 9.5, 0.0), abs=1e-5)
    assert exposure.line(np.array([1.01])) == pytest.approx((1.01, 0.0))

    def distance(constants: Constants) -> float:  # the published constants of FFHQ at 20 steps
        return float(np.square(constants.scale + constants.slope * index - (1.0042 + 0.0004 * index)).sum())

    found = exposure.search(distance, 20, OFF)
    assert found == pytest.approx((1.0042, 0.0004), abs=1e-3)
    assert found.slope == pytest.approx(0.0004, rel=0.2)


@pytest.mark.parametrize("ratios", [[0.1, 5.0, 0.1], [9.0, 0.1], [0.01] * 3, [50.0] * 3])
def test_the_line_stays_within_what_a_recipe_may_have(ratios: list[float]) -> None:
    scale, slope = exposure.line(np.array(ratios))
    assert scale >= RANGE[0] - 1e-5
    assert scale + slope * (len(ratios) - 1) <= 1.5
    assert 0 <= slope <= 0.1


@pytest.mark.parametrize("minimum", [0.0, 0.3, 0.77, 1.0])
def test_golden_section_finds_what_scipy_finds(minimum: float) -> None:
    def function(x: float) -> float:
        return abs(x - minimum) ** 1.5

    theirs = minimize_scalar(function, bounds=(0, 1), method="bounded", options={"xatol": 1e-6}).x
    assert exposure.golden(function, 0.0, 1.0, 1e-5) == pytest.approx(theirs, abs=2e-5)
