"""Stochastic one-step samplers, and ER-SDE: ``noise(sigma, sigma_next)`` gives the unit normal noise of a step."""

from math import exp, log, sqrt

import numpy as np

from service.diffusion.ode import steps
from service.diffusion.options import Eta, NoiseScale, Order
from service.diffusion.types import Array, Denoiser, Noise


def ancestral_split(sigma: float, sigma_next: float, eta: float) -> tuple[float, float]:
    """Where to step down to and how much noise to add so that sigma_next is reached (Song et al. 2021, eq. 16)."""
    up = eta * sigma_next * sqrt(1 - (sigma_next / sigma) ** 2)
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


def ddim(denoise: Denoiser, x: Array, sigmas: Array, noise: Noise, *, eta: Eta = 0.0) -> Array:
    """DDIM (Song et al. 2021, eq. 12): in this convention the ancestral step, by default without noise."""
    return euler_ancestral(denoise, x, sigmas, noise, eta=eta)


def dpmpp_2s_ancestral(
    denoise: Denoiser, x: Array, sigmas: Array, noise: Noise, *, eta: Eta = 1.0, s_noise: NoiseScale = 1.0
) -> Array:
    """DPM-Solver++(2S) (Lu et al. 2022b, alg. 1) down to a lower noise level, then noise up (k-diffusion)."""
    for sigma, sigma_next in steps(sigmas):
        down, up = ancestral_split(sigma, sigma_next, eta)
        x0 = denoise(x, sigma).x0
        if down == 0:
            x = x0
        else:
            middle = sqrt(sigma * down)
            x = _towards(x, denoise(_towards(x, x0, middle / sigma), middle).x0, down / sigma)
        if up > 0:
            x = x + s_noise * up * noise(sigma, sigma_next)
    return x


def dpmpp_sde(
    denoise: Denoiser, x: Array, sigmas: Array, noise: Noise, *, eta: Eta = 1.0, s_noise: NoiseScale = 1.0
) -> Array:
    """SDE-DPM-Solver++ with a stochastic midpoint at sqrt(sigma sigma_next) (k-diffusion).

    Both noises of a step are increments of one Brownian path over sigma.
    """
    for sigma, sigma_next in steps(sigmas):
        x0 = denoise(x, sigma).x0
        if sigma_next == 0:
            return x0
        middle = sqrt(sigma * sigma_next)
        first, second = noise(sigma, middle), noise(middle, sigma_next)
        whole = (sqrt(sigma - middle) * first + sqrt(middle - sigma_next) * second) / sqrt(sigma - sigma_next)
        down, up = ancestral_split(sigma, middle, eta)
        halfway = _towards(x, x0, down / sigma) + s_noise * up * first
        down, up = ancestral_split(sigma, sigma_next, eta)
        x = _towards(x, denoise(halfway, middle).x0, down / sigma) + s_noise * up * whole
    return x


def _towards(x: Array, x0: Array, ratio: float) -> Array:
    """The exact step for a constant x0: sigma shrinks by ``ratio``."""
    return ratio * x + (1 - ratio) * x0


def er_sde(
    denoise: Denoiser, x: Array, sigmas: Array, noise: Noise, *, order: Order = 3, s_noise: NoiseScale = 1.0
) -> Array:
    """Extended reverse-time SDE solver (Cui et al. 2023, alg. 1-3) with the authors' noise function (ER-SDE 5).

    x0 is a polynomial in sigma, so the weights are integrals of 1 / er_noise, found here by Gauss-Legendre quadrature.
    """
    history: list[tuple[float, Array, Array]] = []  # (sigma, x0, slope of x0) of the steps before, newest first
    for sigma, sigma_next in steps(sigmas):
        x0 = denoise(x, sigma).x0
        if sigma_next == 0:
            return x0
        ratio, change = er_noise(sigma_next) / er_noise(sigma), sigma_next - sigma
        x = _towards(x, x0, ratio)
        slope = np.zeros_like(x)
        if history and order > 1:
            last_sigma, last_x0, last_slope = history[0]
            slope = (x0 - last_x0) / (sigma - last_sigma)
            x = x + (change + er_noise(sigma_next) * _integral(sigma, sigma_next, 0)) * slope
            if len(history) > 1 and order > 2:
                curvature = (slope - last_slope) * 2 / (sigma - history[1][0])
                x = x + (change**2 / 2 + er_noise(sigma_next) * _integral(sigma, sigma_next, 1)) * curvature
        x = x + s_noise * sqrt(sigma_next**2 - (sigma * ratio) ** 2) * noise(sigma, sigma_next)
        history = [(sigma, x0, slope), *history[:1]]
    return x


def er_noise(sigma: float) -> float:
    """The noise function phi of the paper (sec. 4.2): sigma (exp(sigma^0.3) + 10)."""
    return sigma * (exp(sigma**0.3) + 10)


NODES, WEIGHTS = np.polynomial.legendre.leggauss(48)


def _integral(sigma: float, sigma_next: float, power: int) -> float:
    """Integral of (s - sigma)^power / er_noise(s) from sigma_next to sigma, over log s where it is smooth."""
    middle, half = log(sigma * sigma_next) / 2, log(sigma / sigma_next) / 2
    s = np.exp(middle + half * NODES)
    return float(half * np.sum(WEIGHTS * (s - sigma) ** power / (np.exp(s**0.3) + 10)))
