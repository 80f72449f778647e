"""Guidance: how conditional and unconditional predictions become one denoiser. Rows not needed are not computed.

``GUIDANCE[name](scale, interval, **options)`` acts for sigma in (lo, hi] (Kynkäänniemi et al. 2024) and leaves the
conditional prediction alone elsewhere. It is decided by sigma, not by step: a Heun corrector is guided as its own sigma
says. Keyword-only parameters are options of the request; further positional ones are facts of the model or the run.
"""

from collections.abc import Callable
from typing import Annotated

import numpy as np
from annotated_types import Interval as Between

from service.diffusion.types import Array, Branches, Denoised, Denoiser

Guidance = Callable[[Branches], Denoiser]
Interval = tuple[float, float]  # guidance acts for lo < sigma <= hi
Combine = Callable[[Array, float, Denoised, Denoised], Denoised]  # x, sigma, uncond, cond -> guided
Share = Annotated[float, Between(ge=0, le=1)]


def cfg(scale: float, interval: Interval | None = None, prediction: str = "v", *, rescale: Share = 0.0) -> Guidance:
    """Classifier-free guidance u + scale (c - u) (Ho & Salimans 2022), and its rescaling (Lin et al. 2024, eq. 14-16).

    The rescaling takes standard deviations of what the network predicts, as diffusers' pipelines do.
    """

    def combine(_x: Array, sigma: float, uncond: Denoised, cond: Denoised) -> Denoised:
        guided = Denoised(*(u + scale * (c - u) for u, c in zip(uncond, cond, strict=True)))
        if rescale == 0:
            return guided
        ratio = np.std(_predicted(cond, sigma, prediction)) / np.std(_predicted(guided, sigma, prediction))
        factor = rescale * ratio + 1 - rescale
        return _from_predicted(factor * _predicted(guided, sigma, prediction), _x, sigma, prediction)

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

    def start() -> Combine:
        average: Array | float = 0.0  # of the run: a new one for every denoiser

        def combine(x: Array, sigma: float, uncond: Denoised, cond: Denoised) -> Denoised:
            nonlocal average
            average = cond.x0 - uncond.x0 + momentum * average
            norm = np.linalg.norm(average)
            update = average * min(1.0, norm_threshold / norm) if norm_threshold > 0 and norm > 0 else average
            along = np.vdot(update, cond.x0) / max(np.vdot(cond.x0, cond.x0), 1e-30) * cond.x0
            return _at(cond.x0 + (scale - 1) * (update - along + parallel * along), x, sigma)

        return combine

    return lambda branches: _guided(start(), interval, both=scale != 1)(branches)


def cfg_pp(scale: float, interval: Interval | None = None) -> Guidance:
    """CFG++: x0 from u + scale (c - u) with scale in (0, 1], renoised with the unconditional eps (Chung et al. 2025)."""

    def combine(_x: Array, _sigma: float, uncond: Denoised, cond: Denoised) -> Denoised:
        return Denoised(uncond.x0 + scale * (cond.x0 - uncond.x0), uncond.eps)

    return _guided(combine, interval)


def cfg_zero(
    scale: float,
    interval: Interval | None,
    sigmas: Array,
    *,
    zero_steps: Annotated[int, Between(ge=0, le=20)] = 1,
) -> Guidance:
    """CFG-Zero* for flow models (Fan et al. 2025): u is scaled to fit c, the velocity of the first steps is 0."""
    held = float(sigmas[min(zero_steps, len(sigmas) - 1)])  # above this sigma x stays where it is

    def combine(x: Array, sigma: float, uncond: Denoised, cond: Denoised) -> Denoised:
        u, c = (branch.eps - branch.x0 for branch in (uncond, cond))  # velocities
        u = u * np.vdot(c, u) / max(np.vdot(u, u), 1e-30)
        return _from_predicted(u + scale * (c - u), x, sigma, "flow")

    def guide(branches: Branches) -> Denoiser:
        guided = _guided(combine, interval, both=scale != 1)(branches)

        def denoise(x: Array, sigma: float) -> Denoised:
            return _from_predicted(np.zeros_like(x), x, sigma, "flow") if sigma > held else guided(x, sigma)

        return denoise

    return guide


GUIDANCE: dict[str, Callable[..., Guidance]] = {"cfg": cfg, "apg": apg, "cfg_pp": cfg_pp, "cfg_zero": cfg_zero}


def _guided(combine: Combine, interval: Interval | None, *, both: bool = True) -> Guidance:
    """Both rows where guidance acts, the conditional one elsewhere."""

    def guide(branches: Branches) -> Denoiser:
        def denoise(x: Array, sigma: float) -> Denoised:
            if not both or (interval is not None and not interval[0] < sigma <= interval[1]):
                return branches(x, sigma, ("cond",))[0]
            uncond, cond = branches(x, sigma, ("uncond", "cond"))
            return combine(x, sigma, uncond, cond)

        return denoise

    return guide


def _at(x0: Array, x: Array, sigma: float) -> Denoised:
    """The estimate x0 with the eps that goes with it."""
    return Denoised(x0, (x - x0) / sigma)


def _predicted(denoised: Denoised, sigma: float, prediction: str) -> Array:
    """What the network said, from its estimate."""
    match prediction:
        case "eps":
            return denoised.eps
        case "x0":
            return denoised.x0
        case "v":
            return (denoised.eps - sigma * denoised.x0) / float(np.hypot(1, sigma))
        case _:  # flow
            return denoised.eps - denoised.x0


def _from_predicted(output: Array, x: Array, sigma: float, prediction: str) -> Denoised:
    """The estimate from what a network would say."""
    match prediction:
        case "eps":
            return _at(x - sigma * output, x, sigma)
        case "x0":
            return _at(output, x, sigma)
        case "v":
            scale = 1 / float(np.hypot(1, sigma))
            return _at(scale * (scale * x - sigma * output), x, sigma)
        case _:  # flow
            return _at((x - sigma * output) / (1 + sigma), x, sigma)
