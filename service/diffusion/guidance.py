"""Guidance: how conditional and unconditional predictions become one denoiser. Rows not needed are not computed.

``GUIDANCE[name](scale, interval, **options)`` acts for sigma in (lo, hi] (Kynkäänniemi et al. 2024) and leaves the
conditional prediction alone elsewhere. It is decided by sigma, not by step: a Heun corrector is guided as its own sigma
says. Keyword-only parameters are options of the request; further positional ones are facts of the model or the run.
"""

from collections.abc import Callable
from typing import Annotated

import numpy as np
from annotated_types import Interval as Between

from service.diffusion.parameterization import Parameterization
from service.diffusion.types import Array, Branches, Denoised, Denoiser

Guidance = Callable[[Branches], Denoiser]
Interval = tuple[float, float]  # guidance acts for lo < sigma <= hi
Combine = Callable[[Array, float, Denoised, Denoised], Denoised]  # x, sigma, uncond, cond -> guided
Share = Annotated[float, Between(ge=0, le=1)]


def cfg(
    scale: float, interval: Interval | None, parameterization: Parameterization, *, rescale: Share = 0.0
) -> Guidance:
    """Classifier-free guidance u + scale (c - u) (Ho & Salimans 2022), and its rescaling (Lin et al. 2024, eq. 14-16).

    The rescaling compares standard deviations of what the network predicts, as diffusers' pipelines do.
    """

    def combine(x: Array, sigma: float, uncond: Denoised, cond: Denoised) -> Denoised:
        guided = Denoised(*(u + scale * (c - u) for u, c in zip(uncond, cond, strict=True)))
        if rescale == 0:
            return guided
        output, reference = (parameterization.predicted(denoised, sigma) for denoised in (guided, cond))
        factor = rescale * float(np.std(reference) / np.std(output)) + 1 - rescale
        return parameterization.denoised(x, factor * output, sigma)

    return _guided(combine, interval, both=scale != 1)


def apg(
    scale: float,
    interval: Interval | None = None,
    *,
    momentum: Annotated[float, Between(ge=-1, le=0)] = -0.5,
    norm_threshold: Annotated[float, Between(ge=0, le=1e6)] = 0.0,
    parallel: Share = 0.0,
) -> Guidance:
    """Adaptive projected guidance on x0 (Sadat et al. 2025, alg. 1); norm_threshold 0 is off.

    The update is added to the conditional prediction, c + (scale - 1) update: added to the unconditional one, as
    diffusers does by default, parallel = 0 would throw away the parallel part of c - u itself.
    """

    def run() -> Combine:
        average: Array | float = 0.0

        def combine(x: Array, sigma: float, uncond: Denoised, cond: Denoised) -> Denoised:
            nonlocal average
            average = cond.x0 - uncond.x0 + momentum * average
            norm = float(np.linalg.norm(average))
            update = average * min(1.0, norm_threshold / norm) if norm_threshold > 0 and norm > 0 else average
            x0 = cond.x0 + (scale - 1) * (update + (parallel - 1) * along(update, cond.x0) * cond.x0)
            return Denoised(x0, (x - x0) / sigma)

        return combine

    return lambda branches: _guided(run(), interval, both=scale != 1)(branches)


def cfg_pp(scale: float, interval: Interval | None = None) -> Guidance:
    """CFG++: x0 from u + scale (c - u), scale in (0, 1], renoised with the unconditional eps (Chung et al. 2025)."""

    def combine(_x: Array, _sigma: float, uncond: Denoised, cond: Denoised) -> Denoised:
        return Denoised(uncond.x0 + scale * (cond.x0 - uncond.x0), uncond.eps)

    return _guided(combine, interval)


def cfg_zero(
    scale: float,
    interval: Interval | None,
    parameterization: Parameterization,
    sigmas: Array,
    *,
    zero_steps: Annotated[int, Between(ge=0, le=20)] = 1,
) -> Guidance:
    """CFG-Zero* for flow models (Fan et al. 2025): u is scaled to fit c, and the first velocities are 0."""
    held = float(sigmas[min(zero_steps, len(sigmas) - 1)])  # above this sigma x stays where it is

    def combine(x: Array, sigma: float, uncond: Denoised, cond: Denoised) -> Denoised:
        u, c = (parameterization.predicted(branch, sigma) for branch in (uncond, cond))
        u = u * along(c, u)
        return parameterization.denoised(x, u + scale * (c - u), sigma)

    def guide(branches: Branches) -> Denoiser:
        guided = _guided(combine, interval, both=scale != 1)(branches)

        def denoise(x: Array, sigma: float) -> Denoised:
            return parameterization.denoised(x, np.zeros_like(x), sigma) if sigma > held else guided(x, sigma)

        return denoise

    return guide


GUIDANCE: dict[str, Callable[..., Guidance]] = {"cfg": cfg, "apg": apg, "cfg_pp": cfg_pp, "cfg_zero": cfg_zero}


def acts(sigma: float, interval: Interval | None) -> bool:
    """Whether guidance acts at this sigma; without an interval it does everywhere."""
    return interval is None or interval[0] < sigma <= interval[1]


def along(a: Array, b: Array) -> float:
    """The coefficient of a's projection on b; 0 for b = 0."""
    square = float((b * b).sum())
    return float((a * b).sum()) / square if square > 0 else 0.0


def _guided(combine: Combine, interval: Interval | None, *, both: bool = True) -> Guidance:
    """Both rows where guidance acts, the conditional one elsewhere."""

    def guide(branches: Branches) -> Denoiser:
        def denoise(x: Array, sigma: float) -> Denoised:
            if not both or not acts(sigma, interval):
                return branches(x, sigma, ("cond",))[0]
            uncond, cond = branches(x, sigma, ("uncond", "cond"))
            return combine(x, sigma, uncond, cond)

        return denoise

    return guide
