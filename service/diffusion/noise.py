"""Randomness is an argument: one generator per image, so a seed is the same picture alone or in a batch."""

from collections.abc import Sequence

import numpy as np

from service.diffusion.types import Array


class SeededNoise:
    """Unit normals of one image from PCG64(seed), drawn in order; the first draw is the initial noise."""

    def __init__(self, seed: int, shape: Sequence[int]) -> None:
        self._generator = np.random.Generator(np.random.PCG64(seed))
        self._shape = tuple(shape)

    def draw(self) -> Array:
        """The next unit normal array, float64."""
        return self._generator.standard_normal(self._shape)

    def __call__(self, _sigma: float, _sigma_next: float) -> Array:
        """The noise of one step."""
        return self.draw()
