"""Steps that name another network of the model: a network is an argument, not a global."""

from collections.abc import Callable

import numpy as np

from service.diffusion.guidance import Interval, acts
from service.diffusion.parameterization import Network, Parameterization
from service.diffusion.types import Array

Networks = Callable[[str], Network]  # by role
Stage = Callable[[Networks, Array], Array]


def start(
    role: str | None, parameterization: Parameterization, sigma: float, scale: float, interval: Interval | None
) -> Stage:
    """Unit noise -> x at the first sigma.

    With a role, SingDiffusion's first step (Zhang et al. 2024, eq. 17): that network predicts x0 from pure noise at T;
    its guided mean is divided by the scale, (u + scale (c - u)) / scale.
    """

    def begin(networks: Networks, noise: Array) -> Array:
        if role is None:
            return parameterization.initial(noise, sigma)
        names = ("uncond", "cond") if scale != 1 and acts(sigma, interval) else ("cond",)
        rows = np.repeat(noise[None], len(names), axis=0)
        clock = np.full(len(names), parameterization.last_timestep)
        outputs: Array = np.asarray(networks(role)(rows, clock, names), dtype=np.float64)
        u, c = outputs[0], outputs[-1]
        x: Array = (u + scale * (c - u)) / (scale if len(names) > 1 else 1) + sigma * noise
        return x

    return begin


def finish(role: str | None) -> Stage:
    """Sampled latent -> latent; with a role, residual learning's last step x + R(x) (Zhang et al. 2024b)."""

    def end(networks: Networks, x: Array) -> Array:
        if role is None:
            return x
        outputs: Array = np.asarray(networks(role)(x[None], np.zeros(1), ("cond",)), dtype=np.float64)
        corrected: Array = x + outputs[0]
        return corrected

    return end
