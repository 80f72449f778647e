"""Samplers with a history: one evaluation a step, higher order from earlier estimates (corrected ones, as they came).

The step to sigma 0 is first order in all of them: it returns x0.
"""

from math import exp, expm1, log, sqrt

import numpy as np

from service.diffusion.ode import steps
from service.diffusion.options import Eta, NoiseScale, Order, Solver
from service.diffusion.types import Array, Denoiser, Noise


def dpmpp_2m(denoise: Denoiser, x: Array, sigmas: Array, _noise: Noise) -> Array:
    """DPM-Solver++(2M): second order from the previous x0 (Lu et al. 2022b, alg. 2)."""
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


def dpmpp_2m_sde(
    denoise: Denoiser,
    x: Array,
    sigmas: Array,
    noise: Noise,
    *,
    eta: Eta = 1.0,
    s_noise: NoiseScale = 1.0,
    solver: Solver = "midpoint",
) -> Array:
    """SDE-DPM-Solver++(2M) (Lu et al. 2022b, sec. 5); eta scales the noise."""
    previous: tuple[Array, float] | None = None  # x0 and log-step h of the step before
    for sigma, sigma_next in steps(sigmas):
        x0 = denoise(x, sigma).x0
        if sigma_next == 0:
            return x0
        h = log(sigma / sigma_next)
        decay = exp(-(1 + eta) * h)  # what is left of x
        x = decay * x + (1 - decay) * x0
        if previous is not None:
            last_x0, last_h = previous
            weight = (1 - decay) / 2 if solver == "midpoint" else phi_2((1 + eta) * h)
            x = x + weight * (h / last_h) * (x0 - last_x0)
        x = x + fresh_noise(sigma, sigma_next, eta, s_noise, noise)
        previous = x0, h
    return x


def dpmpp_3m_sde(
    denoise: Denoiser, x: Array, sigmas: Array, noise: Noise, *, eta: Eta = 1.0, s_noise: NoiseScale = 1.0
) -> Array:
    """SDE-DPM-Solver++(3M): two previous x0, as k-diffusion defines it.

    As published its curvature term is half of Taylor's, so it converges at order 2, with a smaller error than 2M.
    diffusers' term has -1/2 where this has +1/2 and does not vanish with h.
    """
    history: list[tuple[Array, float]] = []  # (x0, log-step h) of the steps before, newest first
    for sigma, sigma_next in steps(sigmas):
        x0 = denoise(x, sigma).x0
        if sigma_next == 0:
            return x0
        h = log(sigma / sigma_next)
        u = (1 + eta) * h
        x = exp(-u) * x - expm1(-u) * x0
        if len(history) == 1:
            (x0_1, h_1) = history[0]
            x = x + phi_2(u) * (x0 - x0_1) * h / h_1
        elif history:
            (x0_1, h_1), (x0_2, h_2) = history
            slope_1, slope_2 = (x0 - x0_1) * h / h_1, (x0_1 - x0_2) * h / h_2
            curvature = (slope_1 - slope_2) * h / (h_1 + h_2)
            x = x + phi_2(u) * (slope_1 + curvature * h_1 / h) - (phi_2(u) / u - 0.5) * curvature
        x = x + fresh_noise(sigma, sigma_next, eta, s_noise, noise)
        history = [(x0, h), *history[:1]]
    return x


def phi_2(u: float) -> float:
    """1 - (1 - exp(-u)) / u: the weight of a slope in an exponential integrator."""
    return 1 + expm1(-u) / u


def fresh_noise(sigma: float, sigma_next: float, eta: float, s_noise: float, noise: Noise) -> Array | float:
    """The noise of a step whose x decays by exp(-(1 + eta) h)."""
    if eta == 0:
        return 0.0
    return s_noise * sigma_next * sqrt(1 - (sigma_next / sigma) ** (2 * eta)) * noise(sigma, sigma_next)


def deis(denoise: Denoiser, x: Array, sigmas: Array, _noise: Noise, *, order: Order = 3) -> Array:
    """DEIS (log-rho): eps as a polynomial in log sigma, integrated exactly (Zhang & Chen 2023, eq. 15).

    Below 15 steps the last ones are of lower order, as in diffusers.
    """
    history: list[tuple[float, Array]] = []  # (log sigma, eps), newest first
    count = len(sigmas) - 1
    for i, (sigma, sigma_next) in enumerate(steps(sigmas)):
        x0, eps = denoise(x, sigma)
        if sigma_next == 0:
            return x0
        history = [(log(sigma), eps), *history][: min(order, count - i) if count < 15 else order]
        weights = _lagrange_integrals([node - log(sigma) for node, _ in history], log(sigma_next / sigma))
        x = x + sum(sigma * weight * eps for weight, (_, eps) in zip(weights, history, strict=True))
    return x


NODES, WEIGHTS = np.polynomial.legendre.leggauss(24)


def _lagrange_integrals(nodes: list[float], h: float) -> list[float]:
    """The integral from 0 to h of exp(u) P(u) for every Lagrange polynomial P of the nodes, by its moments."""
    shares = (NODES + 1) / 2  # u / h
    moments = [h / 2 * (WEIGHTS @ (np.exp(h * shares) * shares**k)) for k in range(len(nodes))]
    weights: list[float] = np.linalg.solve(np.vander(np.array(nodes) / h, increasing=True).T, moments).tolist()
    return weights
