"""The drawing surface: coordinates, compositing and tileable noise.

Coordinates: x in [-1, 1] to the right, y in [-1, 1] downwards; a pixel is 2 / size wide. Colours are floats in
[0, 1], display-referred. The camera stands one unit above the ground and looks at the horizon.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]  # float32
TILE = 512


@dataclass
class Canvas:
    """A picture in the making: rgb is (size, size, 3), x and y are the pixel centres, horizon is a height in y."""

    size: int
    horizon: float
    rgb: Array
    x: Array
    y: Array

    @classmethod
    def blank(cls, size: int, horizon: float) -> "Canvas":
        centres = ((np.arange(size) + 0.5) * (2 / size) - 1).astype(np.float32)
        return cls(size, horizon, np.zeros((size, size, 3), np.float32), centres, centres)

    @property
    def pixel(self) -> float:
        return 2 / self.size

    def row(self, y: float) -> int:
        """First pixel row at or below height y."""
        return int(np.clip((y + 1) / self.pixel, 0, self.size))

    def over(self, colour: Array, alpha: Array, top: int = 0) -> None:
        """Composite colour (h, w, 3) or (3,) with alpha (h, w) over the rows from top on."""
        rows = self.rgb[top : top + alpha.shape[0]]
        rows += (colour - rows) * alpha[..., None]

    def below(self, profile: Array) -> tuple[int, Array, Array]:
        """Region under the curve y = profile(x): first row, antialiased coverage and depth under the curve."""
        top = self.row(float(profile.min()) - self.pixel)
        depth = self.y[top:, None] - profile[None, :]
        slope = np.sqrt(1 + np.gradient(profile, self.pixel) ** 2)
        return top, np.clip(depth / (self.pixel * slope) + 0.5, 0, 1), depth


def rgb(*values: float) -> Array:
    return np.array(values, np.float32)


def mix(a: Array, b: Array, t: Array | float) -> Array:
    """Linear interpolation; t broadcasts over the colour axis when it has one axis less."""
    t = np.asarray(t, np.float32)
    return a + (b - a) * (t[..., None] if t.ndim else t)


def smoothstep(low: float, high: float, x: Array) -> Array:
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


@lru_cache(maxsize=16)
def fractal(exponent: float, number: int = 0) -> Array:
    """Tileable noise with amplitude spectrum f^-exponent, zero mean and unit variance, (TILE, TILE)."""
    rng = np.random.default_rng([number, int(exponent * 100)])
    fy, fx = np.fft.fftfreq(TILE)[:, None] * TILE, np.fft.rfftfreq(TILE)[None, :] * TILE
    radius = np.maximum(np.hypot(fy, fx), 1.0)
    white = np.fft.rfft2(rng.standard_normal((TILE, TILE)))
    spectrum = np.where(np.hypot(fy, fx) < 2, 0, white * radius**-exponent)
    field = np.fft.irfft2(spectrum, s=(TILE, TILE))
    return np.asarray(field / field.std(), np.float32)


def sample(tile: Array, u: Array, v: Array) -> Array:
    """Bilinear periodic lookup; one unit of u or v spans the whole tile."""
    u, v = np.broadcast_arrays(u * TILE, v * TILE)
    iu, iv = np.floor(u).astype(np.int32), np.floor(v).astype(np.int32)
    fu, fv = (u - iu).astype(np.float32), (v - iv).astype(np.float32)
    iu0, iv0 = iu % TILE, iv % TILE * TILE
    iu1, iv1 = (iu + 1) % TILE, (iv + 1) % TILE * TILE
    flat = tile.ravel()
    upper = flat[iv0 + iu0] * (1 - fu) + flat[iv0 + iu1] * fu
    lower = flat[iv1 + iu0] * (1 - fu) + flat[iv1 + iu1] * fu
    return np.asarray(upper * (1 - fv) + lower * fv)


def ridge(rng: np.random.Generator, x: Array, frequency: float, octaves: int, gain: float, sharp: bool) -> Array:
    """A random skyline in about [-1, 1]: octaves of interpolated lattice noise, piecewise linear when sharp."""
    total, norm = np.zeros_like(x), 0.0
    for k in range(octaves):
        knots = rng.uniform(-1, 1, 3 + int(2 * frequency * 2**k)).astype(np.float32)
        position = (x + 1) * frequency * 2**k + rng.uniform(0, 1)
        cell = np.floor(position).astype(int) % (len(knots) - 1)
        t = position - np.floor(position)
        t = t if sharp else t * t * (3 - 2 * t)
        total += gain**k * (knots[cell] * (1 - t) + knots[cell + 1] * t)
        norm += gain ** (2 * k)
    return np.asarray(total / (1.2 * np.sqrt(norm)), np.float32)
