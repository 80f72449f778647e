"""Samplers of distilled networks, which jump to x0 in every step."""

from math import floor, hypot, sqrt

from service.diffusion.ode import steps
from service.diffusion.options import Eta
from service.diffusion.parameterization import Parameterization
from service.diffusion.types import Array, Denoiser, Noise


def lcm(denoise: Denoiser, x: Array, sigmas: Array, noise: Noise) -> Array:
    """Multistep consistency sampling (Luo et al. 2023, alg. 3): to x0, then noise up to sigma_next.

    diffusers' boundary scalings (c_skip < 1e-7 at the timesteps of these models) are left out.
    """
    for sigma, sigma_next in steps(sigmas):
        x = denoise(x, sigma).x0
        if sigma_next > 0:
            x = x + sigma_next * noise(sigma, sigma_next)
    return x


def tcd(
    denoise: Denoiser,
    x: Array,
    sigmas: Array,
    noise: Noise,
    parameterization: Parameterization,
    *,
    eta: Eta = 0.3,
) -> Array:
    """Strategic stochastic sampling (Zheng et al. 2024, alg. 2): down to timestep (1 - eta) t_next, noise up to t_next.

    diffusers leaves the noise of timestep 0 in its result; this ends at x0.
    """
    for sigma, sigma_next in steps(sigmas):
        x0, eps = denoise(x, sigma)
        down = sigma_next
        if eta > 0 and sigma_next > 0:
            timestep = parameterization.sigma_to_timestep(sigma_next)
            down = parameterization.timestep_to_sigma(floor((1 - eta) * timestep))
        x = x0 + down * eps
        if down < sigma_next:
            x = x + sqrt(sigma_next**2 - down**2) * noise(sigma, sigma_next)
    return x


def flash(denoise: Denoiser, x: Array, sigmas: Array, _noise: Noise) -> Array:
    """Imagine Flash's few-step sampler (Kohler et al. 2024, sec. 3.4): DDIM with noise correction at T.

    There x is all noise, so the first direction is the noise itself; a network's own guess of it is biased.
    """
    start = x / hypot(1.0, float(sigmas[0]))  # the unit noise that x was made of
    for i, (sigma, sigma_next) in enumerate(steps(sigmas)):
        x0, eps = denoise(x, sigma)
        x = x0 + sigma_next * (start if i == 0 else eps)
    return x
