"""Every sampler converges to the exact solution at its order."""

import numpy as np
import pytest
from scipy.stats import kstest

from service.diffusion.samplers import SAMPLERS
from tests.diffusion.convergence import HIGH, LOW, STRONG, WEAK, at_low, observed, strong_errors, weak_errors
from tests.diffusion.mixture import MEANS, WEIGHTS, WIDTHS, cdf, denoise

COUNTS = [160, 320]


def test_every_sampler_has_a_row() -> None:
    assert {row.split(",")[0] for row in (*STRONG, *WEAK)} == set(SAMPLERS) - {"lcm", "flash"}


@pytest.mark.parametrize("row", STRONG)
def test_strong_order(row: str) -> None:
    assert observed(strong_errors(row, COUNTS)) == pytest.approx(STRONG[row][0], abs=0.17)


@pytest.mark.parametrize("row", WEAK)
def test_weak_order(row: str) -> None:
    assert observed(weak_errors(row, [60, 120])) == pytest.approx(WEAK[row][0], abs=0.2)


@pytest.mark.parametrize("row", WEAK)
def test_samples_of_a_stochastic_sampler_have_the_right_distribution(row: str) -> None:
    """Kolmogorov-Smirnov on 8,000 samples of the mixture: at sigma 0.1 their law is known exactly."""
    rng = np.random.default_rng(0)
    component = rng.choice(2, size=8_000, p=WEIGHTS)
    x = MEANS[component] + np.hypot(WIDTHS[component], HIGH) * rng.standard_normal(component.size)
    samples = at_low(row, WEAK[row][1], denoise, x, 80, lambda *_: rng.standard_normal(x.shape))
    assert kstest(samples, lambda y: cdf(y, LOW)).statistic < 0.018
