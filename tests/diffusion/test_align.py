"""The KLUB and its descent against Gaussian data, where both are known in closed form (Sabour et al. 2024, app. A)."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from service.diffusion import align
from service.diffusion.types import Array, Denoised
from tests.diffusion import mixture

C = 0.5  # standard deviation of the data
LOW, HIGH = 0.03, 15.0


def gaussian(x: Array, sigma: float) -> Denoised:
    """The posterior mean of data N(0, C^2)."""
    x0 = C**2 / (C**2 + sigma**2) * x
    return Denoised(x0, (x - x0) / sigma)


def expected(levels: Array) -> Array:
    """E |D(x_t) - D(x_u)|^2 a dimension: D falls by what noise takes away, so it is a difference of error variances."""
    error = C**2 * levels**2 / (C**2 + levels**2)
    return np.abs(error - error[:, None])


def test_disagreement_is_that_of_gaussian_data() -> None:
    rng, levels = np.random.default_rng(0), np.geomspace(LOW, HIGH, 12)
    clean = C * rng.standard_normal(100_000)
    found = align.disagreement(gaussian, clean, levels, lambda: rng.standard_normal(clean.shape))
    np.testing.assert_allclose(found, expected(levels), rtol=0.04, atol=1e-6)
    np.testing.assert_array_equal(found, found.T)
    np.testing.assert_array_equal(np.diag(found), 0)


def test_disagreement_is_the_difference_of_errors_for_any_exact_denoiser() -> None:
    """E[D(x_t) | x_u] = D(x_u), so E |D(x_t) - D(x_u)|^2 = E |x0 - D(x_u)|^2 - E |x0 - D(x_t)|^2."""
    rng, levels = np.random.default_rng(1), np.array([0.1, 0.4, 1.0, 3.0])
    component = rng.choice(2, size=200_000, p=mixture.WEIGHTS)
    clean = mixture.MEANS[component] + mixture.WIDTHS[component] * rng.standard_normal(len(component))
    noisy = clean + levels[:, None] * rng.standard_normal((4, len(clean)))
    error = [np.mean((mixture.denoise(x, sigma).x0 - clean) ** 2) for x, sigma in zip(noisy, levels, strict=True)]
    found = align.disagreement(mixture.denoise, clean, levels, lambda: rng.standard_normal(clean.shape))
    np.testing.assert_allclose(found, np.abs(np.subtract.outer(error, error)), rtol=0.03, atol=1e-6)


def test_the_denoiser_is_asked_once_a_level_from_noise_to_picture() -> None:
    asked: list[float] = []

    def denoise(x: Array, sigma: float) -> Denoised:
        asked.append(sigma)
        return gaussian(x, sigma)

    align.disagreement(denoise, np.ones(3), np.array([0.1, 1.0, 5.0]), lambda: np.ones(3))
    assert asked == [5.0, 1.0, 0.1]


def exact(low: float, high: float) -> float:
    """The KLUB of one step, by quadrature."""

    def integrand(t: float) -> float:
        return C**4 / t**3 * (1 / (t**2 + C**2) - 1 / (high**2 + C**2))

    return float(quad(integrand, low, high, epsabs=0, epsrel=1e-10)[0])


@pytest.mark.parametrize(("low", "high"), [(0.03, 0.1), (0.03, 15.0), (0.5, 2.0)])
def test_costs_converge_to_the_integral_at_second_order(low: float, high: float) -> None:
    def error(count: int) -> float:
        levels = np.geomspace(low, high, count)
        return float(align.costs(levels, expected(levels))[0, -1] / exact(low, high) - 1)

    assert abs(error(161)) < 0.01
    assert error(81) / error(161) == pytest.approx(4, rel=0.02)


def optimal(steps: int) -> Array:
    """t^2 / (t^2 + C^2) is a geometric progression: the derivative of the KLUB by every inner level vanishes there."""
    ends = np.array([LOW, HIGH]) ** 2
    q = np.geomspace(*(ends / (ends + C**2)), steps + 1)
    return C * np.sqrt(q / (1 - q))


def test_the_progression_is_the_minimum_of_the_integral() -> None:
    best = optimal(4)
    least = sum(exact(a, b) for a, b in pairwise(best))
    for i in range(1, 4):
        for factor in (0.98, 1.02):
            moved = best.copy()
            moved[i] *= factor
            assert sum(exact(a, b) for a, b in pairwise(moved)) > least


@pytest.mark.parametrize("steps", [3, 10])
def test_the_descent_ends_at_the_optimum(steps: int) -> None:
    levels = np.geomspace(LOW, HIGH, 400)
    cost = align.costs(levels, expected(levels))
    start = align.nearest(levels, np.append(np.geomspace(HIGH, LOW, steps + 1)[:-1], 0.0), 1)
    _, found = align.descend(cost, start, 1, lambda places: align.klub(cost, places))
    wanted = align.nearest(levels, np.append(optimal(steps)[:0:-1], 0.0), 1)
    assert np.abs(np.subtract(found, wanted)).max() <= 4  # a tenth of a step, at a flat bottom
    assert align.klub(cost, found) == pytest.approx(align.klub(cost, wanted), rel=5e-3)
    assert align.klub(cost, found) < 0.9 * align.klub(cost, start)


def test_refinement_keeps_the_levels_and_finds_the_best_between_them() -> None:
    levels = np.geomspace(LOW, HIGH, 60)
    cost = align.costs(levels, expected(levels))
    coarse = (0, 20, 35, 59)
    fine = align.refined(cost, coarse, 1)
    assert fine[::2] == coarse
    for low, new, high in zip(coarse, fine[1::2], coarse[1:], strict=False):
        klubs = {place: cost[low, place] + cost[place, high] for place in range(low + 1, high)}
        assert klubs[new] == min(klubs.values())
    assert align.klub(cost, fine) < align.klub(cost, coarse)


@given(st.data())
def test_a_sweep_never_raises_the_klub_and_keeps_ends_and_order(data: st.DataObject) -> None:
    count, steps, gap = 40, data.draw(st.integers(2, 8)), data.draw(st.integers(1, 4))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    levels = np.geomspace(LOW, HIGH, count)
    residuals = rng.standard_normal((count, 3))
    cost = align.costs(levels, ((residuals[:, None] - residuals) ** 2).sum(-1))
    places = align.nearest(levels, np.append(np.sort(rng.uniform(LOW, HIGH, steps))[::-1], 0.0), gap)
    for _ in range(3):
        assert len(places) == steps + 1
        assert (places[0], places[-1]) == (0, count - 1)
        assert np.diff(places).min() >= gap
        following = align.sweep(cost, places, gap)
        assert align.klub(cost, following) <= align.klub(cost, places)
        assert np.abs(np.subtract(following, places)).max() <= align.REACH
        places = following
    if gap == 4:
        finest = align.refined(cost, align.refined(cost, places, 2), 1)
        assert len(finest) == 4 * steps + 1
        assert np.diff(finest).min() >= 1


def test_nearest_is_exact_on_the_levels_and_refuses_too_many_steps() -> None:
    levels = np.geomspace(LOW, HIGH, 40)
    assert align.nearest(levels, np.array([levels[-1], levels[30], levels[7], 0.0]), 4) == (0, 7, 30, 39)
    assert align.nearest(levels, np.array([1000.0, levels[30], 1e-9, 0.0]), 4) == (0, 4, 30, 39)
    assert align.nearest(levels, np.array([HIGH, 14.9, 14.8, 0.0]), 4) == (0, 31, 35, 39)
    with pytest.raises(ValueError, match="more than 40 levels"):
        align.nearest(levels, np.append(np.geomspace(HIGH, LOW, 20), 0.0), 2)


def test_the_descent_stops_when_the_pictures_no_longer_gain() -> None:
    levels = np.geomspace(LOW, HIGH, 200)
    cost = align.costs(levels, expected(levels))
    start = align.nearest(levels, np.append(np.geomspace(HIGH, LOW, 11)[:-1], 0.0), 4)
    seen: list[align.Places] = []

    def judge(places: align.Places) -> float:
        seen.append(places)
        return [3.0, 2.0, 2.5, 1.0, 1.0, 4.0][len(seen) - 1]

    assert align.descend(cost, start, 4, judge) == (1.0, seen[3])
    assert len(seen) == 6  # two sweeps in turn without a gain
    klubs = [align.klub(cost, places) for places in seen]
    assert klubs == sorted(klubs, reverse=True)
