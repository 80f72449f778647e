"""Exposure-bias corrections: denoiser in, denoiser out. They see the guided estimate."""

import numpy as np

from service.diffusion.types import Array, Denoised, Denoiser, Wrapper

SINGULAR = 20.0  # above this sigma alpha < 0.05 (zero terminal SNR, flow's t = 1): dividing eps puts noise into x0


def epsilon_scaling(scale: float, slope: float, sigmas: Array) -> Wrapper:
    """eps' = eps / (scale + slope * i), i steps from the clean end, and x0' follows (Ning et al. 2024, sec. 5).

    In this convention x0' = x - (x - x0) / lambda is the paper's form for eps, v and flow networks alike; on a flow
    model it is not the "velocity scaling" of other programs. Above sigma 20 nothing is scaled.
    """
    levels, steps = np.log(sigmas[-2::-1]), np.arange(len(sigmas) - 1)  # ascending

    def wrap(denoise: Denoiser) -> Denoiser:
        def corrected(x: Array, sigma: float) -> Denoised:
            x0, eps = denoise(x, sigma)
            if sigma > SINGULAR:
                return Denoised(x0, eps)
            factor = scale + slope * np.interp(np.log(sigma), levels, steps)
            return Denoised(x - (x - x0) / factor, eps / factor)

        return corrected

    return wrap
