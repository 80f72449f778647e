"""What a recipe will do, step by step, found by running its real sampler and guidance on null networks."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from service.diffusion.compose import compose
from service.diffusion.guidance import Guidance
from service.diffusion.parameterization import Parameterization
from service.diffusion.types import Array, Denoised


class Evaluation(NamedTuple):
    """One network call: the step it serves, its noise level and clock, and the rows it computes."""

    step: int  # the interval of ``sigmas`` that starts at, or holds, this sigma
    sigma: float
    timestep: float  # the network's clock
    rows: tuple[str, ...]  # ("cond",) or ("uncond", "cond")
    nfe: int  # network calls so far, this one included


def explain(
    sampler: Callable[..., Array],
    sigmas: Sequence[float],
    parameterization: Parameterization,
    guidance: Guidance,
) -> list[Evaluation]:
    """The network calls of a run in order; ``sampler`` has its options bound.

    Corrections change what a call returns, never which calls are made. (Time shift moves a call's clock by what it
    finds in the picture; the scheduled clock is shown.)
    """
    calls: list[Evaluation] = []
    levels = np.array(sigmas, dtype=np.float64)

    def record(x: Array, sigma: float, names: Sequence[str]) -> list[Denoised]:
        step = int(np.searchsorted(-levels, -sigma, side="right")) - 1
        clock = parameterization.sigma_to_timestep(sigma)
        calls.append(Evaluation(step, float(sigma), clock, tuple(names), len(calls) + 1))
        return [Denoised(np.zeros_like(x), x / sigma) for _ in names]

    x = np.ones((1, 1, 1))
    sampler(compose(record, guidance, []), x * levels[0], levels, lambda *_: x)
    return calls
