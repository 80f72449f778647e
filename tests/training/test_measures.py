"""Measures of sets of pictures: closed forms, SciPy, sets that are equal or far apart."""

import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.stats import norm

from training import measures
from training.measures import Estimate, Renders, frechet

RNG = np.random.default_rng


def test_frechet_distance_of_gaussians_on_one_axis() -> None:
    """|m_a - m_b|^2 + (s_a - s_b)^2, axis by axis, where covariances commute."""
    mean_a, mean_b, spread_a, spread_b = RNG(0).uniform(0.5, 2, (4, 5))
    found = measures.gaussian_frechet(mean_a, np.diag(spread_a**2), mean_b, np.diag(spread_b**2))
    assert found == pytest.approx(((mean_a - mean_b) ** 2).sum() + ((spread_a - spread_b) ** 2).sum())


@pytest.mark.parametrize("rows", [200, 6], ids=["full rank", "fewer pictures than features"])
def test_frechet_distance_is_that_of_scipys_root(rows: int) -> None:
    a, b = RNG(1).normal(size=(rows, 8)) @ RNG(2).normal(size=(8, 8)), RNG(3).normal(1, 2, (200, 8))
    root = sqrtm(np.cov(a, rowvar=False) @ np.cov(b, rowvar=False)).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(np.cov(a, rowvar=False) + np.cov(b, rowvar=False))
    assert frechet(a, b) == pytest.approx(expected - 2 * np.trace(root), rel=1e-5)


def test_frechet_distance_to_oneself_is_nothing() -> None:
    a = RNG(4).normal(size=(50, 8))
    assert frechet(a, a) == pytest.approx(0, abs=1e-10)
    assert frechet(a, a + 3) == pytest.approx(9 * 8)


def test_pseudo_values_take_the_bias_out() -> None:
    """E of the variance with divisor n is s^2 (n - 1) / n: the jackknife of it is the one with n - 1, exactly."""
    sets = RNG(5).normal(size=(12, 1, 1))
    values = measures.pseudo_values(lambda points: float(points.var()), sets)
    assert values.mean() == pytest.approx(sets.var(ddof=1))
    means = measures.pseudo_values(lambda points: float(points.mean()), sets)
    np.testing.assert_allclose(means, sets[:, 0, 0])


def test_the_distance_of_few_pictures_is_unbiased_and_its_interval_honest() -> None:
    """Two samples of N(0, diag) and N(m, 4/9 diag): the distance is known, plain estimates are far above it."""
    spread = 1 / np.sqrt(np.arange(1, 9))
    truth = 8 * 0.01 + (spread**2).sum() / 9
    plain, inside, centres = [], 0, []
    for seed in range(40):
        real, made = RNG(seed).normal(0, spread, (30, 2, 8)), RNG(1000 + seed).normal(0.1, spread * 2 / 3, (30, 2, 8))
        values = measures.pseudo_values(frechet, made, real)
        interval = measures.estimate(values)
        plain.append(frechet(made.reshape(-1, 8), real.reshape(-1, 8)))
        centres.append(interval.mean)
        inside += interval.low <= truth <= interval.high
    error = np.std(centres) / np.sqrt(40)
    assert abs(np.mean(centres) - truth) < 3 * error
    assert np.mean(plain) - truth > 6 * error
    assert 32 <= inside <= 40  # of 40 intervals of 95 %


def test_interval_of_a_mean_is_the_normal_one_for_many_values() -> None:
    values = RNG(6).normal(3, 2, 2000)
    low, high = norm.interval(0.95, values.mean(), values.std() / np.sqrt(2000))
    found = measures.estimate(values)
    assert found.mean == values.mean()
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.01)


def test_precision_and_recall_of_equal_sets_and_of_sets_far_apart() -> None:
    points = RNG(7).normal(size=(40, 3))
    assert measures.covered(points, points).all()
    assert not measures.covered(points + 100, points).any()


def test_precision_and_recall_tell_a_lost_mode_from_an_invented_one() -> None:
    """Half of the renders' modes drawn: all pictures are covered, half of the renders; and the reverse."""
    left, right = RNG(8).normal(0, 1, (30, 2)), RNG(9).normal(50, 1, (30, 2))
    both = np.concatenate([left, right])
    assert measures.covered(left, both).mean() == 1
    assert measures.covered(both, left).mean() == 0.5


def test_a_point_is_covered_up_to_the_third_neighbour() -> None:
    line = np.arange(8.0)[:, None] ** 2  # 0 1 4 9 16 25 36 49: the last one's third neighbour is 16, 33 away
    assert measures.covered(np.array([[49.0 + 33], [49.0 + 33.1]]), line).tolist() == [True, False]


def test_diversity_is_the_mean_distance_within_a_prompt() -> None:
    features = np.array([[[0.0, 0.0], [3.0, 4.0], [6.0, 8.0]], [[1.0, 1.0], [1.0, 1.0], [1.0, 1.0]]])
    np.testing.assert_allclose(measures.diversity(features), [20 / 3, 0])


def test_principal_axes_are_those_of_most_variance() -> None:
    rotation, _ = np.linalg.qr(RNG(10).normal(size=(6, 6)))
    points = (RNG(11).normal(size=(4000, 6)) * [9, 3, 0.1, 0.1, 0.1, 0.1]) @ rotation
    axes = measures.principal_axes(points, 2)
    np.testing.assert_allclose(np.abs(axes.T @ rotation[:2].T), np.eye(2), atol=0.05)
    np.testing.assert_allclose(axes.T @ axes, np.eye(2), atol=1e-12)


def test_renders_beside_other_renders_are_as_real_and_as_diverse() -> None:
    """The same distribution: distance 0 and diversity 1 within their intervals, precision and recall high."""
    centres = RNG(12).normal(size=(60, 1, 5))
    both = centres + 0.5 * RNG(13).normal(size=(60, 6, 5))
    found = Renders(both[:, 2:]).measure(both[:, :2])
    distance, diversity = (measures.estimate(found[name]) for name in ("frechet", "diversity"))
    assert distance.low < 0 < distance.high
    assert diversity.low < 1 < diversity.high
    assert found["precision"].mean() > 0.9
    assert found["recall"].mean() > 0.8


def test_the_front_keeps_what_nothing_beats_everywhere() -> None:
    rows = {"a": (1.0, 0.0), "b": (0.0, 1.0), "c": (0.5, 0.5), "worse": (0.4, 0.5), "twin": (0.5, 0.5)}
    assert measures.not_dominated(rows) == ["a", "b", "c", "twin"]


def test_an_estimate_prints_its_interval() -> None:
    assert str(Estimate(0.5, 0.25, 0.75)) == "0.500 [0.250, 0.750]"
