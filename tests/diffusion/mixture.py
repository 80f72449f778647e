"""A Gaussian mixture, whose denoiser and probability-flow ODE have exact solutions."""

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm

from service.diffusion.types import Array, Denoised

WEIGHTS, MEANS, WIDTHS = np.array([0.3, 0.7]), np.array([-1.5, 0.8]), np.array([0.35, 0.5])


def denoise(x: Array, sigma: float) -> Denoised:
    """The posterior mean E[x0 | x] of the mixture, elementwise."""
    variances = WIDTHS**2 + sigma**2
    centred = x[..., None] - MEANS
    logits = np.log(WEIGHTS) - 0.5 * np.log(variances) - 0.5 * centred**2 / variances
    responsibilities = np.exp(logits - logits.max(-1, keepdims=True))
    responsibilities /= responsibilities.sum(-1, keepdims=True)
    x0 = (responsibilities * (MEANS + WIDTHS**2 / variances * centred)).sum(-1)
    return Denoised(x0, (x - x0) / sigma)


def cdf(x: Array, sigma: float) -> Array:
    """Distribution function of x0 + sigma * eps."""
    return norm.cdf((np.asarray(x)[..., None] - MEANS) / np.sqrt(WIDTHS**2 + sigma**2)) @ WEIGHTS


def transported(x: Array, sigma: float, sigma_end: float) -> Array:
    """Where the probability-flow ODE takes x: in one dimension it keeps quantiles, so F_end(y) = F(x)."""
    quantiles = cdf(x, sigma)
    reach = 3 + 10 * sigma_end
    return np.array([brentq(lambda y, q=q: cdf(y, sigma_end) - q, -reach, reach, xtol=1e-14) for q in quantiles])


def moments(sigma: float) -> tuple[float, float]:
    """Mean and variance of x0 + sigma * eps."""
    mean = float(WEIGHTS @ MEANS)
    return mean, float(WEIGHTS @ (WIDTHS**2 + MEANS**2)) - mean**2 + sigma**2
