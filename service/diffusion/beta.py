"""Quantiles of the beta distribution without SciPy: a continued fraction, inverted by bisection."""

from math import lgamma

import numpy as np

from service.diffusion.types import Array

TINY = 1e-300


def quantile(p: Array, a: float, b: float) -> Array:
    """x with I_x(a, b) = p, elementwise, to 2^-45."""
    low, high = np.zeros_like(p), np.ones_like(p)
    for _ in range(45):
        middle = (low + high) / 2
        below = distribution(middle, a, b) < p
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return np.where(p <= 0, 0.0, np.where(p >= 1, 1.0, (low + high) / 2))


def distribution(x: Array, a: float, b: float) -> Array:
    """The regularised incomplete beta function I_x(a, b) for 0 < x < 1."""
    front = np.exp(lgamma(a + b) - lgamma(a) - lgamma(b) + a * np.log(x) + b * np.log1p(-x))
    left = x < (a + 1) / (a + b + 2)  # where the fraction converges fast; elsewhere I_x(a, b) = 1 - I_(1-x)(b, a)
    return np.where(left, front * _fraction(x, a, b) / a, 1 - front * _fraction(1 - x, b, a) / b)


def _fraction(x: Array, a: float, b: float) -> Array:
    """The continued fraction of I_x(a, b) (DLMF 8.17.22) by Lentz's method."""
    c, d = np.ones_like(x), 1 / _away_from_0(1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, 25):
        for numerator in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / _away_from_0(1 + numerator * d)
            c = _away_from_0(1 + numerator / c)
            value = value * c * d
    return value


def _away_from_0(x: Array) -> Array:
    return np.where(np.abs(x) < TINY, TINY, x)
