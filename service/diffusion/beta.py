"""Quantiles of the beta distribution without SciPy: a power series, inverted by bisection."""

from functools import cache
from math import exp, lgamma

import numpy as np
from numpy.polynomial.polynomial import polyval

from service.diffusion.types import Array


def quantile(p: Array, a: float, b: float) -> Array:
    """x with I_x(a, b) = p, elementwise, to 2^-45."""
    low, high = np.zeros_like(p), np.ones_like(p)
    for _ in range(45):
        middle = (low + high) / 2
        below = distribution(middle, a, b) < p
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return np.where(p <= 0, 0.0, np.where(p >= 1, 1.0, (low + high) / 2))


def distribution(x: Array, a: float, b: float) -> Array:
    """The regularised incomplete beta function I_x(a, b) = 1 - I_(1-x)(b, a)."""
    return np.where(x <= 0.5, _lower(np.minimum(x, 0.5), a, b), 1 - _lower(np.minimum(1 - x, 0.5), b, a))


def _lower(x: Array, a: float, b: float) -> Array:
    """I_x(a, b) for x <= 1/2: x^a / B(a, b) * sum of (1 - b)_n / (n! (a + n)) x^n (DLMF 8.17.7 with 15.2.1)."""
    return x**a * polyval(x, _series(a, b))


@cache
def _series(a: float, b: float) -> Array:
    n = np.arange(60)
    ratios = np.cumprod(np.concatenate([[1.0], (n[1:] - b) / n[1:]]))
    series: Array = ratios / (a + n) * exp(lgamma(a + b) - lgamma(a) - lgamma(b))
    return series
