"""Schedules: decreasing float64 sigmas [n + 1] that end in 0, from the model's noise levels [T] (ascending).

``SCHEDULES[name](noise_levels, n, **options)``; the options are the keyword-only parameters.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from service.diffusion.options import Rho, Sigma
from service.diffusion.types import Array

Schedule = Callable[..., Array]

NEGLIGIBLE_SIGNAL = float(np.exp(5.1))  # lambda = log(alpha / sigma) clipped at -5.1 (Lu et al. 2022a, app. D)


def karras(
    noise_levels: Array, n: int, *, rho: Rho = 7.0, sigma_min: Sigma | None = None, sigma_max: Sigma | None = None
) -> Array:
    """Evenly spaced in sigma^(1/rho) (Karras et al. 2022, eq. 5)."""
    low, high = _range(noise_levels, sigma_min, sigma_max)
    return _end(np.linspace(high ** (1 / rho), low ** (1 / rho), n) ** rho, high)


def exponential(
    noise_levels: Array, n: int, *, sigma_min: Sigma | None = None, sigma_max: Sigma | None = None
) -> Array:
    """Evenly spaced in log sigma."""
    low, high = _range(noise_levels, sigma_min, sigma_max)
    return _end(np.exp(np.linspace(np.log(high), np.log(low), n)), high)


def linspace(noise_levels: Array, n: int) -> Array:
    """Evenly spaced timesteps from the last to the first ("normal"); sigma linear in between, as diffusers' Euler."""
    return _at(noise_levels, np.linspace(len(noise_levels) - 1, 0, n))


def trailing(noise_levels: Array, n: int) -> Array:
    """Evenly spaced timesteps that start at the last (Lin et al. 2024, table 2; "sgm_uniform")."""
    total = len(noise_levels)
    return _at(noise_levels, np.round(total - np.arange(n) * (total / n)) - 1)


# Align Your Steps (Sabour et al. 2024, table 3): timestep indices of a 1000-step grid, the last one is replaced by 0.
AYS = {
    "sd15": (999, 850, 736, 645, 545, 455, 343, 233, 124, 24, 0),
    "sdxl": (999, 845, 730, 587, 443, 310, 193, 116, 53, 13, 0),
    "squaredcos": (995, 920, 811, 686, 555, 418, 315, 174, 109, 12, 0),  # DeepFloyd-IF, stage 1
}


def ays(noise_levels: Array, n: int, *, table: Literal["auto", "sd15", "sdxl", "squaredcos"] = "auto") -> Array:
    """Align Your Steps: the published table on the model's own noise levels, log-linear for other step counts.

    "auto" is "squaredcos" for a model whose noise reaches beyond sigma 50, else "sd15".
    """
    if table == "auto":
        table = "squaredcos" if noise_levels[-1] > 50 else "sd15"
    known = _at(noise_levels, np.array(AYS[table]) * (len(noise_levels) - 1) / 999)[:-1]
    points = np.linspace(0, 1, n + 1)[:-1]
    return _end(np.exp(np.interp(points, np.linspace(0, 1, len(known)), np.log(known))), known[0])


SCHEDULES: dict[str, Schedule] = {
    "karras": karras,
    "exponential": exponential,
    "linspace": linspace,
    "trailing": trailing,
    "ays": ays,
}


def check(sigmas: Sequence[float] | Array, noise_levels: Array) -> Array:
    """The sigmas as float64 [n + 1], or a ValueError that says what is wrong with them."""
    levels = np.array(sigmas, dtype=np.float64)
    if levels.ndim != 1 or len(levels) < 2 or not np.all(np.isfinite(levels)):
        raise ValueError("sigmas must be at least two finite numbers")
    if levels[-1] != 0 or np.any(np.diff(levels) >= 0):
        raise ValueError("sigmas must decrease strictly and end in 0")
    if levels[-2] < noise_levels[0] / 1000:
        raise ValueError(f"sigmas must not fall below {float(noise_levels[0]) / 1000:.3g} before they end in 0")
    if levels[0] > noise_levels[-1] * (1 + 1e-6):
        raise ValueError(f"sigmas must not exceed {float(noise_levels[-1])!r}, the largest noise level of the model")
    return levels


def _range(noise_levels: Array, sigma_min: float | None, sigma_max: float | None) -> tuple[float, float]:
    """The requested ends, or the model's without the last levels of a cosine or zero-SNR process, which say nothing."""
    low = float(noise_levels[0]) if sigma_min is None else sigma_min
    high = float(noise_levels[noise_levels <= NEGLIGIBLE_SIGNAL][-1]) if sigma_max is None else sigma_max
    if not 0 < low < high:
        raise ValueError(f"sigma_min ({low:g}) must be positive and below sigma_max ({high:g})")
    return low, high


def _at(noise_levels: Array, timesteps: Array) -> Array:
    """Sigmas at (fractional) timesteps, then 0."""
    return np.append(np.interp(timesteps, np.arange(len(noise_levels)), noise_levels), 0.0)


def _end(sigmas: Array, sigma_max: float) -> Array:
    """Pin the first sigma exactly, which rounding would move off the model's range, and append 0."""
    sigmas[0] = sigma_max
    return np.append(sigmas, 0.0)
