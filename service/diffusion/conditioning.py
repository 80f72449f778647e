"""Conditioning transforms: named arrays in, named arrays out, below guidance, folded in the order of a list.

The network's closure applies them to every row of a call: ``transform(arrays, time)`` with time = clock / last clock, 1
at pure noise and 0 at the clean end. A transform that leaves the arrays alone returns the very same mapping, so that
the conditioning's digest stays true.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from service.diffusion.types import Array

Arrays = Mapping[str, Array]
Transform = Callable[[Arrays, float], Arrays]

FIXED = frozenset({"time_ids", "attention_mask", "encoder_attention_mask"})  # facts of the request, not its meaning


def cads(noise: np.random.Generator, tau1: float, tau2: float, noise_scale: float, mixing: float) -> Transform:
    """Condition-annealed sampling (Sadat et al. 2024, eq. 4-7): noise in the condition early, none after tau1.

    noise_scale is in units of the condition's own deviation, so that one value serves every text encoder.
    """

    def transform(arrays: Arrays, time: float) -> Arrays:
        gamma = float(np.clip((tau2 - time) / (tau2 - tau1), 0, 1))
        if gamma == 1:
            return arrays
        return {name: y if name in FIXED else _annealed(y, gamma) for name, y in arrays.items()}

    def _annealed(y: Array, gamma: float) -> Array:
        mean, deviation = y.mean(dtype=np.float64), y.std(dtype=np.float64)
        fresh = noise.standard_normal(y.shape)
        noisy = np.sqrt(gamma) * y + noise_scale * deviation * np.sqrt(1 - gamma) * fresh
        rescaled = (noisy - noisy.mean()) / max(noisy.std(), 1e-12) * deviation + mean
        annealed: Array = (mixing * rescaled + (1 - mixing) * noisy).astype(y.dtype)
        return annealed

    return transform


def transformed(transforms: Sequence[Transform], arrays: Arrays, time: float) -> Arrays:
    """The visible fold: first transform first."""
    for transform in transforms:
        arrays = transform(arrays, time)
    return arrays
