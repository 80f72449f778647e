"""The seams of the mathematics. One convention, variance-exploding: x = x0 + sigma * eps."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]


class Denoised(NamedTuple):
    """What a denoiser knows of x: the clean estimate and the noise direction, both shaped like x."""

    x0: Array
    eps: Array  # (x - x0) / sigma unless a method says otherwise (CFG++, "x0 only" epsilon scaling)


class Denoiser(Protocol):
    """Estimates the clean sample in ``x`` (any shape, one image) at noise level ``sigma``."""

    def __call__(self, x: Array, sigma: float) -> Denoised: ...


class Noise(Protocol):
    """Unit normal noise shaped like the image, for the step from ``sigma`` to ``sigma_next``."""

    def __call__(self, sigma: float, sigma_next: float) -> Array: ...


class Branches(Protocol):
    """Evaluates the named conditioning branches ("cond", "uncond") at once: one row each, one network call."""

    def __call__(self, x: Array, sigma: float, names: Sequence[str]) -> list[Denoised]: ...


# (denoise, x, sigmas, noise, **options) -> x. ``x`` is noise at sigmas[0]; ``sigmas`` decrease and end in 0.
Sampler = Callable[..., Array]

# A denoiser in, a denoiser out: corrections, watching.
Wrapper = Callable[[Denoiser], Denoiser]
