"""The drawing surface: coordinates, compositing, colour and noise that is defined in scene coordinates.

Coordinates: x in [-1, 1] to the right, y in [-1, 1] downwards. Colours are linear light; 1 is paper white and the
finish compresses what is brighter. Noise is band-limited to the pixel, so that a larger picture of the same scene
has more detail and is otherwise the same picture.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]  # float32
TILE = 256
TOP = 64  # highest frequency of a tile, in cycles per tile
LEVELS = 13  # of half an octave each


@dataclass(frozen=True)
class View:
    """What the frame shows of the scene plane: scale 1 is [-1, 1] on both axes."""

    scale: float = 1.0
    dx: float = 0.0
    dy: float = 0.0


@dataclass
class Frame:
    """A vertical strip of the picture: rgb (height, width, 3), pixel centres x (width,) and y (height,)."""

    pixel: float
    x: Array
    y: Array
    rgb: Array

    @classmethod
    def strip(cls, size: int, first: int, last: int, view: View) -> "Frame":
        """Columns first to last of a picture of size x size."""
        centres = ((np.arange(size) + 0.5) * (2 / size) - 1) * view.scale
        x = (centres[first:last] + view.dx).astype(np.float32)
        rgb = np.zeros((size, last - first, 3), np.float32)
        return cls(2 / size * view.scale, x, (centres + view.dy).astype(np.float32), rgb)

    def row(self, y: float) -> int:
        """First row at or below height y."""
        return int(np.clip(np.ceil((y - self.y[0]) / self.pixel), 0, len(self.y)))

    def column(self, x: float) -> int:
        return int(np.clip(np.ceil((x - self.x[0]) / self.pixel), 0, len(self.x)))

    def over(self, colour: Array, alpha: Array, top: int = 0) -> None:
        """Composite colour (h, w, 3) or (3,) with alpha (h, w) over the rows from top on."""
        rows = self.rgb[top : top + alpha.shape[0]]
        rows += (colour - rows) * alpha[..., None]


def rgb(*values: float) -> Array:
    return np.array(values, np.float32)


def paint(code: str, gain: float = 1.0) -> Array:
    """Linear colour of an sRGB hex code."""
    display = np.array([int(code[i : i + 2], 16) for i in (0, 2, 4)], np.float32) / 255
    return np.asarray(np.where(display > 0.04045, ((display + 0.055) / 1.055) ** 2.4, display / 12.92) * gain)


def mix(a: Array, b: Array, t: Array | float) -> Array:
    """Linear interpolation; t broadcasts over the colour axis when it has one axis less."""
    t = np.asarray(t, np.float32)
    return a + (b - a) * (t[..., None] if t.ndim else t)


def smoothstep(low: float, high: float, x: Array) -> Array:
    t = np.clip((x - low) / (high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t))


def unit(*values: float) -> Array:
    vector = rgb(*values)
    return np.asarray(vector / np.linalg.norm(vector))


@lru_cache(maxsize=32)
def tile(exponent: float, number: int = 0, low: float = 2, high: float = TOP) -> Array:
    """Periodic noise with amplitude spectrum f^-exponent and unit variance, (LEVELS, TILE^2).

    Level k has no frequencies above TOP 2^(-k/2) cycles a tile; the last level is zero.
    """
    rng = np.random.default_rng([number, int(exponent * 100), int(low), int(high)])
    fy, fx = np.fft.fftfreq(TILE)[:, None] * TILE, np.fft.rfftfreq(TILE)[None, :] * TILE
    radius = np.hypot(fy, fx)
    white = np.fft.rfft2(rng.standard_normal((TILE, TILE)))
    spectrum = np.where((radius >= low) & (radius <= high), white * np.maximum(radius, 1) ** -exponent, 0)
    cuts = [TOP * 2 ** (-k / 2) for k in range(LEVELS - 1)] + [0.0]
    fields = [np.fft.irfft2(spectrum * np.clip(1.5 - radius / max(c, 1e-6), 0, 1), s=(TILE, TILE)) for c in cuts]
    return np.asarray(np.stack(fields).reshape(LEVELS, -1) / fields[0].std(), np.float32)


def lookup(field: Array, u: Array, v: Array, footprint: Array | float) -> Array:
    """Bilinear periodic lookup at the level that suits a pixel of width `footprint`; 1 unit spans the tile."""
    level = np.clip(np.rint(2 * np.log2(2 * TOP * np.asarray(footprint) + 1e-9)), 0, LEVELS - 1).astype(np.int32)
    u, v = u * np.float32(TILE), v * np.float32(TILE)
    iu, iv = np.floor(u), np.floor(v)
    fu, fv = (u - iu).astype(np.float32), (v - iv).astype(np.float32)
    iu, iv = iu.astype(np.int32), iv.astype(np.int32)
    column, row = iu & (TILE - 1), (iv & (TILE - 1)) * TILE + level * (TILE * TILE)
    right, below = (iu + 1) & (TILE - 1), ((iv + 1) & (TILE - 1)) * TILE + level * (TILE * TILE)
    flat = field.ravel()
    upper, lower = flat[row + column], flat[below + column]
    upper = upper + (flat[row + right] - upper) * fu
    lower = lower + (flat[below + right] - lower) * fu
    return np.asarray(upper + (lower - upper) * fv)


def fractal(exponent: float, number: int, u: Array, v: Array, footprint: Array | float) -> Array:
    """Fractal noise of about unit variance; further octaves appear as the pixel shrinks."""
    total = lookup(tile(exponent, number), u, v, footprint)
    scale, finest = 32.0, float(np.min(footprint, initial=np.inf))  # a strip may hold none of it
    while scale * finest < 0.12:
        fade = np.clip(2 - scale / 0.06 * np.asarray(footprint), 0, 1).astype(np.float32)
        layer = lookup(tile(exponent, number), u * scale, v * scale, np.asarray(footprint) * scale)
        total = total + np.float32(scale ** (1 - exponent)) * fade * layer
        scale *= 32
    return total


def octaves(u: Array, v: Array, footprint: Array | float, count: int) -> Iterator[Array]:
    """Single octaves of noise (2 to 4 cycles a unit, then twice that, ...), faded out below the pixel."""
    finest = float(np.min(footprint))
    for k in range(count):
        scale = 2.0**k
        if 3 * scale * finest > 0.6:
            return
        fade = np.clip(2 - 8 * 3 * scale * np.asarray(footprint), 0, 1).astype(np.float32)
        yield lookup(tile(0.0, 7, 4, 8), (u + 0.37 * k) * (scale / 2), (v + 0.61 * k) * (scale / 2), 0.0) * fade


def scatter(i: Array, j: Array, salt: int) -> Array:
    """A uniform number in [0, 1) for each pair of whole numbers (a 32-bit integer hash)."""
    h = i.astype(np.int32).astype(np.uint32) * np.uint32(0x9E3779B1) ^ j.astype(np.int32).astype(np.uint32)
    h = (h + np.uint32(salt)) * np.uint32(0x85EBCA6B)
    h = (h ^ (h >> np.uint32(15))) * np.uint32(0xC2B2AE35)
    h ^= h >> np.uint32(13)
    h *= np.uint32(0x27D4EB2F)
    return np.asarray((h >> np.uint32(8)).astype(np.float32) * np.float32(2**-24))


def wander(rng: np.random.Generator, x: Array, frequency: float, octave_count: int, gain: float) -> Array:
    """A smooth random curve in about [-1, 1], a function of x alone."""
    total, norm = np.zeros_like(x), 0.0
    for k in range(octave_count):
        knots = rng.uniform(-1, 1, 64).astype(np.float32)
        position = (x + 4) * frequency * 2**k + rng.uniform(0, 1)
        cell = np.floor(position).astype(np.int32)
        t = (position - cell).astype(np.float32)
        t = t * t * (3 - 2 * t)
        total += gain**k * (knots[cell % 64] * (1 - t) + knots[(cell + 1) % 64] * t)
        norm += gain ** (2 * k)
    return np.asarray(total / (1.2 * np.sqrt(norm)), np.float32)


def luminance(colour: Array) -> Array:
    return np.asarray(colour @ rgb(0.2126, 0.7152, 0.0722))
