"""Schedules: decreasing float64 sigmas [n + 1] that end in 0, from the model's noise levels [T] (ascending).

``SCHEDULES[name](noise_levels, n, **options)``. Keyword-only parameters are options of the request; a further
positional one (``latent_pixels``) is a fact of the picture.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import numpy as np
from annotated_types import Interval

from service.diffusion import beta as beta_distribution
from service.diffusion.options import Rho, Sigma
from service.diffusion.types import Array

Schedule = Callable[..., Array]
Shape = Annotated[float, Interval(ge=0.1, le=10)]  # a parameter of the beta distribution
Shift = Annotated[float, Interval(ge=0.1, le=100)]
Table = Literal["auto", "sd15", "sdxl", "squaredcos"]

NEGLIGIBLE_SIGNAL = float(np.exp(5.1))  # lambda = log(alpha / sigma) clipped at -5.1 (Lu et al. 2022a, app. D)

# Align Your Steps (Sabour et al. 2024, table 3): timestep indices of a 1000-step grid.
AYS: dict[str, tuple[int, ...]] = {
    "sd15": (999, 850, 736, 645, 545, 455, 343, 233, 124, 24, 0),
    "sdxl": (999, 845, 730, 587, 443, 310, 193, 116, 53, 13, 0),
    "squaredcos": (995, 920, 811, 686, 555, 418, 315, 174, 109, 12, 0),  # DeepFloyd-IF, stage 1
}


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
    return polyexponential(noise_levels, n, rho=1.0, sigma_min=sigma_min, sigma_max=sigma_max)


def polyexponential(
    noise_levels: Array, n: int, *, rho: Rho = 1.0, sigma_min: Sigma | None = None, sigma_max: Sigma | None = None
) -> Array:
    """A polynomial ramp in log sigma (k-diffusion); rho 1 is exponential."""
    low, high = _range(noise_levels, sigma_min, sigma_max)
    return _end(low * (high / low) ** (np.linspace(1, 0, n) ** rho), high)


def linspace(noise_levels: Array, n: int) -> Array:
    """Evenly spaced timesteps from the last to the first ("normal"); sigma linear in between, as diffusers' Euler."""
    return _at(noise_levels, np.linspace(len(noise_levels) - 1, 0, n))


def trailing(noise_levels: Array, n: int, *, start: Annotated[int, Interval(ge=1)] | None = None) -> Array:
    """Evenly spaced timesteps that start at the last (Lin et al. 2024, table 2; "sgm_uniform"), or at ``start``."""
    total = len(noise_levels) if start is None else start + 1
    if total > len(noise_levels):
        raise ValueError(f"start must be at most {len(noise_levels) - 1}, the model's last timestep")
    return _at(noise_levels, np.round(total - np.arange(n) * (total / n)) - 1)


def leading(noise_levels: Array, n: int, *, offset: Annotated[int, Interval(ge=0, le=1)] = 1) -> Array:
    """Timesteps at a whole stride from the first (Lin et al. 2024, table 2; "ddim_uniform"): short of the last."""
    if n == 1:
        raise ValueError("leading with 1 step would start at the clean end; use trailing")
    return _at(noise_levels, np.arange(n)[::-1] * float(len(noise_levels) // n) + offset)


def lcm(noise_levels: Array, n: int, *, origin: Annotated[int, Interval(ge=1, le=1000)] = 50) -> Array:
    """n of the ``origin`` evenly spaced timesteps that a consistency model was distilled on (Luo et al. 2023)."""
    stride = len(noise_levels) // origin
    if n > origin:
        raise ValueError(f"lcm has only {origin} timesteps; ask for at most as many steps or raise origin")
    trained = np.arange(origin, 0, -1) * float(stride) - 1
    return _at(noise_levels, trained[np.floor(np.linspace(0, origin, n, endpoint=False)).astype(int)])


def simple(noise_levels: Array, n: int) -> Array:
    """Every T/n-th noise level from the top, rounded towards it (ComfyUI, Forge)."""
    return _at(noise_levels, len(noise_levels) - 1 - np.floor(np.arange(n) * (len(noise_levels) / n)))


def beta(noise_levels: Array, n: int, *, alpha: Shape = 0.6, beta: Shape = 0.6) -> Array:
    """Timesteps at quantiles of a beta distribution (Lee et al. 2024), rounded as ComfyUI does."""
    quantiles = beta_distribution.quantile(1 - np.arange(n) / n, alpha, beta)
    timesteps = np.rint(np.round(quantiles * (len(noise_levels) - 1), 9))
    distinct = len(np.unique(timesteps))
    if distinct < n:
        raise ValueError(f"beta has only {distinct} distinct timesteps for {n} steps; ask for fewer or use beta_sigma")
    return _at(noise_levels, timesteps)


def beta_sigma(noise_levels: Array, n: int, *, alpha: Shape = 0.6, beta: Shape = 0.6) -> Array:
    """The same quantiles on sigma itself: what diffusers and A1111 call beta, another curve altogether."""
    low, high = _range(noise_levels, None, None)
    return _end(low + (high - low) * beta_distribution.quantile(np.linspace(1, 0, n), alpha, beta), high)


def kl_optimal(noise_levels: Array, n: int, *, sigma_min: Sigma | None = None, sigma_max: Sigma | None = None) -> Array:
    """Evenly spaced in atan(sigma): optimal for Gaussian data (Sabour et al. 2024, thm. 3.1 with c = 1)."""
    low, high = _range(noise_levels, sigma_min, sigma_max)
    return _end(np.tan(np.linspace(np.arctan(high), np.arctan(low), n)), high)


def ays(noise_levels: Array, n: int, *, table: Table = "auto") -> Array:
    """Align Your Steps: the published table on the model's own noise levels, log-linear for other step counts.

    "auto" is "squaredcos" for a model whose noise reaches beyond sigma 50, else "sd15".
    """
    return _ays(noise_levels, table, np.linspace(0, 1, n + 1)[:-1])


def ays_a1111(noise_levels: Array, n: int, *, table: Table = "auto") -> Array:
    """A1111's reading of the table: interpolated to n points, then 0 (the authors': n + 1 points, the last one 0)."""
    return _ays(noise_levels, table, np.linspace(0, 1, n))


def flow_shift(noise_levels: Array, n: int, *, shift: Shift = 3.0) -> Array:
    """Flow models: even in t, shifted by t' = s t / (1 + (s - 1) t) (Esser et al. 2024, eq. 23): sigma times s."""
    t = 1 - np.arange(1, n) / n
    return np.concatenate([noise_levels[-1:], np.minimum(shift * t / (1 - t), noise_levels[-1]), [0.0]])


def flow_resolution(
    noise_levels: Array,
    n: int,
    latent_pixels: int,
    *,
    mu_256: Annotated[float, Interval(ge=-3, le=3)] = 0.5,
    mu_4096: Annotated[float, Interval(ge=-3, le=3)] = 1.15,
) -> Array:
    """Flow models: shift exp(mu), mu linear in the count of 2x2 tokens (Flux), held constant above 4096 of them."""
    tokens = min(latent_pixels / 4, 4096)
    mu = mu_256 + (mu_4096 - mu_256) * (tokens - 256) / (4096 - 256)
    return flow_shift(noise_levels, n, shift=float(np.exp(mu)))


SCHEDULES: dict[str, Schedule] = {
    "karras": karras,
    "exponential": exponential,
    "polyexponential": polyexponential,
    "linspace": linspace,
    "trailing": trailing,
    "leading": leading,
    "lcm": lcm,
    "simple": simple,
    "beta": beta,
    "beta_sigma": beta_sigma,
    "kl_optimal": kl_optimal,
    "ays": ays,
    "ays_a1111": ays_a1111,
    "flow_shift": flow_shift,
    "flow_resolution": flow_resolution,
}
FLOW_ONLY = frozenset({"flow_shift", "flow_resolution"})
VP_ONLY = frozenset({"ays", "ays_a1111"})  # their tables are levels of VP models


def between(levels: Sequence[float], n: int) -> Array:
    """n steps on a table of noise levels: log-linear in it, the last level becomes 0 (Sabour et al. 2024)."""
    known = np.array(levels, dtype=np.float64)
    return _end(_log_linear(known, np.linspace(0, 1, n + 1)[:-1]), known[0])


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


def _ays(noise_levels: Array, table: Table, points: Array) -> Array:
    """The table at points of [0, 1], log-linear in between, then 0."""
    if table == "auto":
        table = "squaredcos" if noise_levels[-1] > 50 else "sd15"
    known = _at(noise_levels, np.array(AYS[table]) * (len(noise_levels) - 1) / 999)[:-1]
    return _end(_log_linear(known, points), known[0])


def _log_linear(known: Array, points: Array) -> Array:
    """Levels at points of [0, 1] between the first and the last known one."""
    return np.asarray(np.exp(np.interp(points, np.linspace(0, 1, len(known)), np.log(known))))


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
