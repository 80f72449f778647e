"""Observed orders of convergence: strong against the exact solution, weak without any Monte Carlo.

``python -m tests.diffusion.convergence`` prints the table.
"""

from itertools import count
from typing import Any

import numpy as np

from service.diffusion.options import bound
from service.diffusion.samplers import SAMPLERS
from service.diffusion.types import Array, Denoised, Denoiser, Noise
from tests.diffusion.mixture import denoise, transported
from tests.diffusion.oracle import ours, recorded

# sampler, options -> (expected order, options). lcm, flash and tcd with eta > 0 jump to x0: they are no integrators.
STRONG: dict[str, tuple[int, dict[str, Any]]] = {
    "euler": (1, {}),
    "ddim": (1, {}),
    "euler_ancestral, eta 0": (1, {"eta": 0.0}),
    "tcd, eta 0": (1, {"eta": 0.0}),
    "heun": (2, {}),
    "dpmpp_2s_ancestral, eta 0": (2, {"eta": 0.0}),
    "dpmpp_sde, eta 0": (2, {"eta": 0.0}),
    "dpmpp_2m": (2, {}),
    "dpmpp_2m_sde, eta 0": (2, {"eta": 0.0}),
    "dpmpp_3m_sde, eta 0": (2, {"eta": 0.0}),  # its curvature term is half of Taylor's, as published
    "deis, order 1": (1, {"order": 1}),
    "deis, order 2": (2, {"order": 2}),
    "deis, order 3": (3, {"order": 3}),
    "unipc, order 1, bh1": (2, {"order": 1, "variant": "bh1"}),
    "unipc, order 1, bh2": (2, {"order": 1, "variant": "bh2"}),
    "unipc, order 2, bh1": (3, {"order": 2, "variant": "bh1"}),
    "unipc, order 2, bh2": (3, {"order": 2, "variant": "bh2"}),
    "unipc, order 3, bh1": (3, {"order": 3, "variant": "bh1"}),  # the last predictor before 0 has order 2
    "unipc, order 3, bh2": (3, {"order": 3, "variant": "bh2"}),
}
WEAK: dict[str, tuple[int, dict[str, Any]]] = {
    "euler_ancestral": (1, {}),
    "ddim, eta 1/2": (1, {"eta": 0.5}),
    "dpmpp_2s_ancestral": (2, {}),
    "dpmpp_sde": (2, {}),
    "dpmpp_2m_sde": (2, {}),
    "dpmpp_2m_sde, heun": (2, {"solver": "heun"}),
    "dpmpp_3m_sde": (2, {}),
    "er_sde, order 1": (1, {"order": 1}),
    "er_sde, order 2": (2, {"order": 2}),
    "er_sde, order 3": (2, {"order": 3}),
}
HIGH, LOW = 80.0, 0.1
START = np.linspace(-1.8, 1.8, 23) * HIGH
MEAN, WIDTH = 0.7, 0.5  # the Gaussian of the weak table


def grid(n: int) -> Array:
    """n log-spaced steps from HIGH to LOW, and the step to 0."""
    return np.append(np.exp(np.linspace(np.log(HIGH), np.log(LOW), n + 1)), 0.0)


def sampler_of(row: str, options: dict[str, Any]) -> Any:
    """The sampler of a row of the table."""
    return bound(SAMPLERS[row.split(",")[0]], options, {"parameterization": ours("eps", "linear")[0]})


def at_low(row: str, options: dict[str, Any], denoise: Denoiser, x: Array, n: int, noise: Noise) -> Array:
    """The x that the sampler brings to sigma = LOW, before the step to 0, which is first order by definition."""
    trajectory: list[Array] = []
    sampler_of(row, options)(recorded(denoise, trajectory), x, grid(n), noise)
    return trajectory[-1]


def strong_errors(row: str, counts: list[int]) -> list[float]:
    """Largest error against the exact solution of the mixture, for each number of steps."""
    exact, options = transported(START, HIGH, LOW), STRONG[row][1]
    runs = [at_low(row, options, denoise, START, n, lambda *_: np.zeros_like(START)) for n in counts]
    return [float(np.abs(run - exact).max()) for run in runs]


def weak_errors(row: str, counts: list[int]) -> list[float]:
    """Largest error of mean and standard deviation on Gaussian data, exactly.

    Every sampler is affine there, so x is carried as its coefficients over (1, x_T, noise_1, noise_2, ...).
    """
    return [_weak_error(row, n) for n in counts]


def _weak_error(row: str, n: int) -> float:
    size = 3 * n + 2
    one, start = np.eye(size)[0], np.eye(size)[1]
    drawn = count(2)

    def denoise_gaussian(x: Array, sigma: float) -> Denoised:
        x0 = MEAN * one + WIDTH**2 / (WIDTH**2 + sigma**2) * (x - MEAN * one)
        return Denoised(x0, (x - x0) / sigma)

    x = MEAN * one + np.hypot(WIDTH, HIGH) * start
    x = at_low(row, WEAK[row][1], denoise_gaussian, x, n, lambda *_: np.eye(size)[next(drawn)])
    deviation = float(np.sqrt((x[1:] ** 2).sum()))
    return max(abs(float(x[0]) - MEAN), abs(deviation - float(np.hypot(WIDTH, LOW))))


def observed(errors: list[float]) -> float:
    """Order from the last halving of the step."""
    return float(np.log2(errors[-2] / errors[-1]))


def table() -> str:
    """All rows: errors at 20, 40, 80, 160 steps, the observed and the expected order."""
    counts = [40, 80, 160, 320]
    lines = [f"{'sampler':32}{'kind':8}" + "".join(f"{n:>10}" for n in counts) + f"{'observed':>10}{'expected':>10}"]
    for kind, rows, measure in (("strong", STRONG, strong_errors), ("weak", WEAK, weak_errors)):
        for row, (expected, _) in rows.items():
            errors = measure(row, counts)
            numbers = "".join(f"{error:>10.1e}" for error in errors)
            lines.append(f"{row:32}{kind:8}{numbers}{observed(errors):>10.2f}{expected:>10}")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
