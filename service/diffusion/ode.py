"""Deterministic samplers. x = x0 + sigma * eps; every network evaluation is one call of ``denoise``.

The state is float64; network inputs are cast at the engine.
"""

from collections.abc import Iterator
from itertools import pairwise
from math import log

from service.diffusion.types import Array, Denoiser, Noise


def steps(sigmas: Array) -> Iterator[tuple[float, float]]:
    """(sigma, sigma_next) of every step, as Python floats."""
    return pairwise(map(float, sigmas))


def euler(denoise: Denoiser, x: Array, sigmas: Array, _noise: Noise) -> Array:
    """Euler on dx/dsigma = eps (Karras et al. 2022, alg. 1 without churn); equal to DDIM with eta 0."""
    for sigma, sigma_next in steps(sigmas):
        x0, eps = denoise(x, sigma)
        x = x0 + sigma_next * eps
    return x


def heun(denoise: Denoiser, x: Array, sigmas: Array, _noise: Noise) -> Array:
    """Trapezoidal rule, two evaluations a step but the last (Karras et al. 2022, alg. 1 without churn)."""
    for sigma, sigma_next in steps(sigmas):
        x0, eps = denoise(x, sigma)
        proposal = x0 + sigma_next * eps
        if sigma_next == 0:
            return proposal
        x = x + (sigma_next - sigma) * (eps + denoise(proposal, sigma_next).eps) / 2
    return x


def dpmpp_2m(denoise: Denoiser, x: Array, sigmas: Array, _noise: Noise) -> Array:
    """DPM-Solver++(2M): second order from the previous x0 (Lu et al. 2022b, alg. 2); the last step is first order."""
    previous: tuple[Array, float] | None = None  # x0 and log-step h of the step before
    for sigma, sigma_next in steps(sigmas):
        x0 = denoise(x, sigma).x0
        if sigma_next == 0:
            return x0
        h = log(sigma / sigma_next)
        estimate = x0
        if previous is not None:
            last_x0, last_h = previous
            estimate = x0 + (x0 - last_x0) * h / (2 * last_h)
        ratio = sigma_next / sigma
        x = ratio * x + (1 - ratio) * estimate
        previous = x0, h
    return x
