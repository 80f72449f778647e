"""Stochastic samplers: ``noise(sigma, sigma_next)`` gives the unit normal noise of a step."""

from math import exp, expm1, log, sqrt
from typing import Literal

from service.diffusion.ode import steps
from service.diffusion.options import Eta, NoiseScale
from service.diffusion.types import Array, Denoiser, Noise


def ancestral_split(sigma: float, sigma_next: float, eta: float) -> tuple[float, float]:
    """Where to step down to and how much noise to add so that sigma_next is reached (Song et al. 2021a, eq. 16)."""
    up = min(sigma_next, eta * sigma_next * sqrt(1 - (sigma_next / sigma) ** 2))
    return sqrt(sigma_next**2 - up**2), up


def euler_ancestral(
    denoise: Denoiser, x: Array, sigmas: Array, noise: Noise, *, eta: Eta = 1.0, s_noise: NoiseScale = 1.0
) -> Array:
    """Euler down to a lower noise level, then noise up to sigma_next."""
    for sigma, sigma_next in steps(sigmas):
        down, up = ancestral_split(sigma, sigma_next, eta)
        x0, eps = denoise(x, sigma)
        x = x0 + down * eps
        if up > 0:
            x = x + s_noise * up * noise(sigma, sigma_next)
    return x


def dpmpp_2m_sde(
    denoise: Denoiser,
    x: Array,
    sigmas: Array,
    noise: Noise,
    *,
    eta: Eta = 1.0,
    s_noise: NoiseScale = 1.0,
    solver: Literal["midpoint", "heun"] = "midpoint",
) -> Array:
    """SDE-DPM-Solver++(2M) (Lu et al. 2022b, sec. 5), eta scales the noise; solver "midpoint" or "heun"."""
    previous: tuple[Array, float] | None = None  # x0 and log-step h of the step before
    for sigma, sigma_next in steps(sigmas):
        x0 = denoise(x, sigma).x0
        if sigma_next == 0:
            return x0
        h = log(sigma / sigma_next)
        decay = exp(-(1 + eta) * h)  # what is left of x
        estimate = (1 - decay) * x0
        if previous is not None:
            last_x0, last_h = previous
            weight = (1 - decay) / 2 if solver == "midpoint" else 1 + expm1(-(1 + eta) * h) / ((1 + eta) * h)
            estimate = estimate + weight * (h / last_h) * (x0 - last_x0)
        x = decay * x + estimate
        if eta > 0:
            x = x + s_noise * sigma_next * sqrt(-expm1(-2 * eta * h)) * noise(sigma, sigma_next)
        previous = x0, h
    return x
