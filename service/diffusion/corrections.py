"""Exposure-bias corrections: denoiser in, denoiser out. They see the guided estimate."""

from typing import Literal

import numpy as np

from service.diffusion.parameterization import Parameterization
from service.diffusion.types import Array, Denoised, Denoiser, Wrapper

SINGULAR = 20.0  # above this sigma alpha < 0.05 (zero terminal SNR, flow's t = 1): dividing eps puts noise into x0


def epsilon_scaling(
    sigmas: Array, scale: float, slope: float = 0.0, form: Literal["everywhere", "x0_only"] = "everywhere"
) -> Wrapper:
    """eps' = eps / (scale + slope * i), i steps from the clean end, and x0' follows (Ning et al. 2024, sec. 5).

    In this convention x0' = x - (x - x0) / lambda is the paper's form for eps, v and flow networks alike; on a flow
    model it is not the "velocity scaling" of other programs. Above sigma 20 nothing is scaled. "x0_only" leaves the
    direction of the step alone, as the authors' code for latent diffusion does: another method with other constants.
    """
    levels, index = np.log(sigmas[-2::-1]), np.arange(len(sigmas) - 1)  # ascending

    def wrap(denoise: Denoiser) -> Denoiser:
        def corrected(x: Array, sigma: float) -> Denoised:
            x0, eps = denoise(x, sigma)
            if sigma > SINGULAR:
                return Denoised(x0, eps)
            factor = scale + slope * np.interp(np.log(sigma), levels, index)
            return Denoised(x - (x - x0) / factor, eps if form == "x0_only" else eps / factor)

        return corrected

    return wrap


def time_shift(
    parameterization: Parameterization, sigmas: Array, window: int, cutoff: float, data_variance: float
) -> Wrapper:
    """Time-shift sampler (Li et al. 2024, alg. 3): x is read at the timestep whose variance it really has.

    Within ``window`` timesteps around the scheduled one the paper matches var(x) to 1 - abar. That is 1 for every t on
    latents of unit variance; the target here is abar * data_variance + 1 - abar. Not in the first step, nor at
    timesteps up to ``cutoff``.
    """
    levels = parameterization.noise_levels
    targets = (data_variance + levels**2) / (1 + levels**2)  # [T] variance of the network's input

    def wrap(denoise: Denoiser) -> Denoiser:
        def shifted(x: Array, sigma: float) -> Denoised:
            timestep = parameterization.sigma_to_timestep(sigma)
            if sigma >= sigmas[0] or timestep <= cutoff:
                return denoise(x, sigma)
            first = max(0, round(timestep - window / 2))
            near = slice(first, min(len(levels), round(timestep + window / 2) + 1))
            variance = np.var(parameterization.input_scale(sigma) * x, ddof=1)
            level = float(levels[first + np.argmin((targets[near] - variance) ** 2)])
            return denoise(x * parameterization.input_scale(sigma) / parameterization.input_scale(level), level)

        return shifted

    return wrap
