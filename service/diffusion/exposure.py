"""Constants of epsilon scaling for a model, a sampler and a schedule (Ning et al. 2024, sec. 5).

The paper reads lambda off the ratio of the norms of eps, in sampling to on noised data. Where steps are few the ratio
misleads: Euler on Gaussian data loses variance, so its ratio is below 1, while lambda above 1 is what restores it
(tested, in closed form). So the line through the ratios is one candidate, and a search on the outcome decides.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from service.diffusion.types import Array

RANGE, TOLERANCE = (0.9, 1.1), 1e-3  # of the scale
STEEPEST = 0.1
GOLDEN = (5**0.5 - 1) / 2


class Constants(NamedTuple):
    """eps is divided by scale + slope * (steps from the clean end)."""

    scale: float
    slope: float


OFF = Constants(1.0, 0.0)


def line(ratios: Array) -> Constants:
    """The least-squares line through the ratios [n] of a run, first step first, as far as constants may go."""
    index = np.arange(len(ratios))[::-1]  # from the clean end, as the paper counts
    mean = float(np.clip(ratios.mean(), *RANGE))
    if len(ratios) == 1:
        return Constants(mean, 0.0)
    steepest = min(2 * (mean - RANGE[0]) / index[0], STEEPEST)
    return _through(mean, float(np.clip(np.polyfit(index, ratios, 1)[0], 0.0, steepest)), len(ratios))


def search(distance: Callable[[Constants], float], steps: int, guess: Constants) -> Constants:
    """The least distant of: no scaling, the guess, a uniform scale, and a line of the same mean.

    Both are found by golden section. The line does not fall below 1 at the clean end.
    """
    scale = golden(lambda mean: distance(_through(mean, 0.0, steps)), *RANGE, TOLERANCE)
    candidates = [OFF, guess, _through(scale, 0.0, steps)]
    if scale > 1 and steps > 1:
        steepest = min(2 * (scale - 1) / (steps - 1), STEEPEST)
        slope = golden(lambda slope: distance(_through(scale, slope, steps)), 0.0, steepest, steepest / 20)
        candidates.append(_through(scale, slope, steps))
    return min(candidates, key=distance)


def _through(mean: float, slope: float, steps: int) -> Constants:
    """A line by its mean over the steps; rounded, since a preset is to be read."""
    return Constants(round(mean - slope * (steps - 1) / 2, 5), round(slope, 7))


def golden(function: Callable[[float], float], low: float, high: float, tolerance: float) -> float:
    """Where a function with one minimum in [low, high] is least, by golden section."""
    left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    at_left, at_right = function(left), function(right)
    while high - low > tolerance:
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - GOLDEN * (high - low)
            at_left = function(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + GOLDEN * (high - low)
            at_right = function(right)
    return left if at_left <= at_right else right
