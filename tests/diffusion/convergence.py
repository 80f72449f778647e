"""Observed orders of convergence: strong against the exact solution, weak without any Monte Carlo.

``python -m tests.diffusion.convergence`` prints the table.
"""

from itertools import count
from typing import Any

import numpy as np

from service.diffusion.samplers import SAMPLERS
from service.diffusion.types import Array, Denoised
from tests.diffusion.mixture import denoise, transported

STRONG: dict[str, tuple[int, dict[str, Any]]] = {
    "euler": (1, {}),
    "euler_ancestral, eta 0": (1, {"eta": 0.0}),
    "heun": (2, {}),
    "dpmpp_2m": (2, {}),
    "dpmpp_2m_sde, eta 0": (2, {"eta": 0.0}),
}
WEAK: dict[str, tuple[int, dict[str, Any]]] = {
    "euler_ancestral": (1, {}),
    "dpmpp_2m_sde": (2, {}),
    "dpmpp_2m_sde, heun": (2, {"solver": "heun"}),
}
HIGH, LOW = 8.0, 0.1
START = np.linspace(-14, 14, 23)
MEAN, WIDTH = 0.7, 0.5  # the Gaussian of the weak table


def grid(n: int) -> Array:
    """Log-spaced, without the final 0: the last step to it is first order by definition."""
    return np.exp(np.linspace(np.log(HIGH), np.log(LOW), n + 1))


def sampler_of(row: str) -> Any:
    """The sampler of a row of the table."""
    return SAMPLERS[row.split(",")[0]]


def strong_errors(row: str, counts: list[int]) -> list[float]:
    """Largest error against the exact solution of the mixture, for each number of steps."""
    exact = transported(START, HIGH, LOW)
    runs = [sampler_of(row)(denoise, START, grid(n), None, **STRONG[row][1]) for n in counts]
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
    x = sampler_of(row)(denoise_gaussian, x, grid(n), lambda *_: np.eye(size)[next(drawn)], **WEAK[row][1])
    deviation = float(np.sqrt((x[1:] ** 2).sum()))
    return max(abs(float(x[0]) - MEAN), abs(deviation - float(np.hypot(WIDTH, LOW))))


def observed(errors: list[float]) -> float:
    """Order from the last halving of the step."""
    return float(np.log2(errors[-2] / errors[-1]))


def table() -> str:
    """All rows: errors at 20, 40, 80, 160 steps, the observed and the expected order."""
    counts = [20, 40, 80, 160]
    lines = [f"{'sampler':32}{'kind':8}" + "".join(f"{n:>10}" for n in counts) + f"{'observed':>10}{'expected':>10}"]
    for kind, rows, measure in (("strong", STRONG, strong_errors), ("weak", WEAK, weak_errors)):
        for row, (expected, _) in rows.items():
            errors = measure(row, counts)
            numbers = "".join(f"{error:>10.1e}" for error in errors)
            lines.append(f"{row:32}{kind:8}{numbers}{observed(errors):>10.2f}{expected:>10}")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
