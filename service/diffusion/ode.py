"""Deterministic one-step samplers. x = x0 + sigma * eps; every network evaluation is one call of ``denoise``.

The state is float64; network inputs are cast at the engine.
"""

from collections.abc import Iterator
from itertools import pairwise

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
