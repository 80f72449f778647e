"""What a recipe will do, step by step, found by running its real sampler and guidance on stand-ins."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from service.diffusion.compose import Parts, compose
from service.diffusion.networks import Networks
from service.diffusion.parameterization import Network
from service.diffusion.types import Array, Denoised

PICTURE, NOISE = np.array([[[1.0, -1.0]]]), np.array([[[1.0, 1.0]]])  # what the stand-ins predict, and where they start


class Evaluation(NamedTuple):
    """One network call: the step it serves, its noise level and clock, the rows it computes, and its network."""

    step: int  # the interval of ``sigmas`` that starts at, or holds, this sigma
    sigma: float  # 0 of a call after the last step
    timestep: float  # the network's clock
    rows: tuple[str, ...]  # ("cond",) or ("uncond", "cond")
    nfe: int  # network calls so far, this one included
    network: str  # its role


def explain(parts: Parts, sigmas: Sequence[float]) -> list[Evaluation]:
    """The network calls of a run in order.

    Corrections change what a call returns, never which calls are made. (Time shift moves a call's clock by what it
    finds in the picture; the scheduled clock is shown.)
    """
    calls: list[Evaluation] = []
    levels = np.array(sigmas, dtype=np.float64)

    def note(role: str, sigma: float, timestep: float, names: Sequence[str]) -> None:
        step = min(int(np.searchsorted(-levels, -sigma, side="right")) - 1, len(levels) - 2)
        calls.append(Evaluation(step, float(sigma), timestep, tuple(names), len(calls) + 1, role))

    def branches(x: Array, sigma: float, names: Sequence[str]) -> list[Denoised]:
        note(parts.network, sigma, parts.parameterization.sigma_to_timestep(sigma), names)
        return [Denoised(PICTURE, (x - PICTURE) / sigma) for _ in names]

    def at(sigma: float) -> Networks:
        def networks(role: str) -> Network:
            def stand_in(x: Array, timestep: Array, names: Sequence[str]) -> Array:
                note(role, sigma, float(timestep[0]), names)
                return np.zeros_like(x)

            return stand_in

        return networks

    denoise = compose(branches, parts.guidance, [])
    parts.finish(at(0.0), parts.sampler(denoise, parts.start(at(sigmas[0]), NOISE), levels, lambda *_: NOISE))
    return calls
