"""Guidance: how conditional and unconditional predictions become one denoiser. Rows not needed are not computed."""

from collections.abc import Callable

from service.diffusion.types import Array, Branches, Denoised, Denoiser

Guidance = Callable[[Branches], Denoiser]
Interval = tuple[float, float]  # guidance acts for lo < sigma <= hi


def cfg(scale: float, interval: Interval | None = None) -> Guidance:
    """Classifier-free guidance u + scale (c - u) (Ho & Salimans 2022) for sigma in (lo, hi] (Kynkäänniemi et al. 2024).

    Decided by sigma, not by step: the correction of a Heun step is guided as its own sigma says.
    """

    def guide(branches: Branches) -> Denoiser:
        def denoise(x: Array, sigma: float) -> Denoised:
            if scale == 1 or not within(sigma, interval):
                return branches(x, sigma, ("cond",))[0]
            uncond, cond = branches(x, sigma, ("uncond", "cond"))
            return Denoised(*(u + scale * (c - u) for u, c in zip(uncond, cond, strict=True)))

        return denoise

    return guide


def within(sigma: float, interval: Interval | None) -> bool:
    """Whether guidance acts at this sigma."""
    return interval is None or interval[0] < sigma <= interval[1]
