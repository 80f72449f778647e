"""UniPC: a predictor and a corrector that share one evaluation a step (Zhao et al. 2023)."""

from math import expm1, log
from typing import Literal

import numpy as np

from service.diffusion.ode import steps
from service.diffusion.options import Order
from service.diffusion.types import Array, Denoiser, Noise

Variant = Literal["bh1", "bh2"]  # B(h) = h or exp(h) - 1
Estimate = tuple[float, Array]  # (log sigma, x0)


def unipc(
    denoise: Denoiser, x: Array, sigmas: Array, _noise: Noise, *, order: Order = 2, variant: Variant = "bh2"
) -> Array:
    """UniPC on x0, multistep (alg. 5-8); orders fall at the end so that the step to 0 is first order."""
    history: list[Estimate] = []  # newest first
    count = len(sigmas) - 1
    before, used = x, 0  # x and the order of the last predictor
    for i, (sigma, sigma_next) in enumerate(steps(sigmas)):
        x0 = denoise(x, sigma).x0
        if sigma_next == 0:
            return x0
        if history:
            x = _step(before, history[:used], sigma, variant, x0)
        history = [(log(sigma), x0), *history][:order]
        used = min(len(history), count - i)
        before, x = x, _step(x, history[:used], sigma_next, variant)
    return x


def _step(x: Array, history: list[Estimate], sigma: float, variant: Variant, arrived: Array | None = None) -> Array:
    """From the newest estimate to sigma; with the estimate found there, the corrector (eq. 3), else the predictor."""
    (start, newest), *older = history
    h = start - log(sigma)  # step in log SNR / 2
    nodes = [(start - node) / h for node, _ in older]
    slopes = [(x0 - newest) / node for node, (_, x0) in zip(nodes, older, strict=True)]
    if arrived is not None:
        nodes, slopes = [*nodes, 1.0], [*slopes, arrived - newest]
    base = -h if variant == "bh1" else expm1(-h)
    x = sigma * np.exp(-start) * x - expm1(-h) * newest
    return x - base * sum(weight * slope for weight, slope in zip(_weights(nodes, h, base), slopes, strict=True))


def _weights(nodes: list[float], h: float, base: float) -> list[float]:
    """The weights a_k that match the Taylor terms (thm. 3.1); a single one is 1/2 for every h."""
    if len(nodes) == 1:
        return [0.5]
    terms, phi, factorial = [], expm1(-h) / -h - 1, 1
    for k in range(1, len(nodes) + 1):
        terms.append(phi * factorial / base)
        factorial *= k + 1
        phi = phi / -h - 1 / factorial
    return np.linalg.solve(np.vander(nodes, increasing=True).T, terms).tolist() if nodes else []
