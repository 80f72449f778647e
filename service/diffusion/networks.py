"""Steps that name another network of the model: a network is an argument, not a global."""

from collections.abc import Sequence

import numpy as np

from service.diffusion.parameterization import Network, Parameterization
from service.diffusion.types import Array, Branches, Denoised


def initial_x0(network: Network, parameterization: Parameterization, noise: Array, sigma: float, scale: float) -> Array:
    """SingDiffusion's first step (Zhang et al. 2024, eq. 17): x at ``sigma`` from a network that sees pure noise.

    The network predicts x0 at T; its guided mean is divided by the scale, (u + scale (c - u)) / scale.
    """
    names = ("cond",) if scale == 1 else ("uncond", "cond")
    rows = np.repeat(noise[None], len(names), axis=0)
    clock = np.full(len(names), parameterization.sigma_to_timestep(float(parameterization.noise_levels[-1])))
    outputs: Array = np.asarray(network(rows, clock, names), dtype=np.float64)
    u, c = outputs[0], outputs[-1]
    start: Array = (u + scale * (c - u)) / scale + sigma * noise
    return start


def residual(network: Network, x: Array) -> Array:
    """Residual learning's last step (Zhang et al. 2024b): x + R(x), R trained on what a sampler leaves behind."""
    outputs: Array = np.asarray(network(x[None], np.zeros(1), ("cond",)), dtype=np.float64)
    corrected: Array = x + outputs[0]
    return corrected


def switched(branches: Branches, other: Branches, low: float, high: float) -> Branches:
    """``other`` for sigma in (low, high], ``branches`` elsewhere: a student, an expert for a range of noise."""

    def evaluate(x: Array, sigma: float, names: Sequence[str]) -> list[Denoised]:
        return (other if low < sigma <= high else branches)(x, sigma, names)

    return evaluate
