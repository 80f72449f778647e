"""A height field in perspective: columns are searched from near to far for the first height that covers a pixel.

World axes: x right, y up, z away from the camera, which stands at height 1 above y = 0 and looks at the horizon.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from training.world.canvas import Array, Frame, smoothstep
from training.world.light import FOCAL, Light

Height = Callable[[Array, Array, Array], Array]  # of x, z and the footprint of a pixel in world units
STEPS = (0.5, 1.2, 2.4, 4.5)  # towards the sun, in units of 6 % of the distance


@dataclass(frozen=True)
class Surface:
    """What each pixel from the row `top` down sees, all (h, w): world coordinates, slope, light, whether it is land."""

    top: int
    x: Array
    y: Array
    z: Array
    up: Array  # the normal's vertical component
    facing: Array  # cosine between normal and sunlight, after cast shadows
    land: Array
    cover: Array  # share of the pixel that belongs to the nearer surface in the row below
    under: Array  # share of the row below that belongs to this pixel's farther surface
    footprint: Array

    def antialias(self, rgb: Array) -> None:
        """Blend the two sides of every silhouette by the exact position of its edge."""
        below = np.concatenate([rgb[1:], rgb[-1:]])
        above = np.concatenate([rgb[:1], rgb[:-1]])
        under = np.concatenate([0 * self.under[:1], self.under[:-1]])
        rgb += (below - rgb) * self.cover[..., None] + (above - rgb) * under[..., None]


def cast(frame: Frame, light: Light, height: Height, far: float) -> Surface:
    """Find the surface in every pixel of the frame."""
    horizon, lowest = light.horizon, float(frame.y[-1])
    near = 0.45 * FOCAL / max(lowest - horizon + frame.pixel, 0.1)
    count = int(2.4 / frame.pixel * max(1.0, frame.pixel * len(frame.y) / 2))
    z = (near * (far / near) ** np.linspace(0, 1, count, dtype=np.float32))[:, None].astype(np.float32)
    screen = np.concatenate([frame.x[:1] - frame.pixel, frame.x, frame.x[-1:] + frame.pixel])[None, :]
    x, footprint = screen * z / FOCAL, 1.5 * frame.pixel * z / FOCAL
    h = height(x, z, footprint)
    normal = _normals(h, z, frame.pixel)
    x, h = x[:, 1:-1], h[:, 1:-1]
    facing = np.clip(normal[0] * light.toward[0] + normal[1] * light.toward[1] + normal[2] * light.toward[2], 0, 1)
    coarse = _sunlit(height, h[::2, ::2], x[::2, ::2], z[::2], light)
    facing *= np.repeat(np.repeat(coarse, 2, 0), 2, 1)[: len(h), : len(frame.x)]
    return _look(frame, horizon, (h, z, normal[1], facing))


def _normals(h: Array, z: Array, pixel: float) -> tuple[Array, Array, Array]:
    slope_x = (h[:, 2:] - h[:, :-2]) / (2 * pixel * z / FOCAL)
    slope_z = np.gradient(h[:, 1:-1], z[:, 0], axis=0)
    up = 1 / np.sqrt(1 + slope_x**2 + slope_z**2)
    return -slope_x * up, up, -slope_z * up


def _sunlit(height: Height, h: Array, x: Array, z: Array, light: Light) -> Array:
    """Soft shadow: how far the ray to the sun clears the coarse height field."""
    clear = np.ones_like(h)
    for step in STEPS:
        away = 0.06 * step * np.minimum(z, 30) + 0 * x
        there = height(x + light.toward[0] * away, z + light.toward[2] * away, 0.12 * away)
        clearance = (h + light.toward[1] * away - there) / (0.12 * away)
        clear = np.minimum(clear, smoothstep(-0.9, 0.5, clearance))
    return clear


def _look(frame: Frame, horizon: float, grid: tuple[Array, ...]) -> Surface:
    """Search every column, interpolate the grid at the hits and measure the silhouettes."""
    h, z, up, facing = grid
    elevation = (h - 1) / z * FOCAL
    top = np.maximum.accumulate(elevation, 0)
    first = max(frame.row(horizon - float(top[-1].max())) - 2, 0)
    target = horizon - frame.y[first:]
    k = np.stack([np.searchsorted(top[:, c], target) for c in range(len(frame.x))], 1)
    land, column = k < len(z), np.arange(len(frame.x))[None, :]
    after, before = np.minimum(k, len(z) - 1), np.maximum(k - 1, 0)
    e0, e1, edge = elevation[before, column], elevation[after, column], top[before, column]
    t = np.clip((target[:, None] - e0) / np.where(e1 > e0, e1 - e0, 1), 0, 1).astype(np.float32)
    seam = ((e0 < edge - 1e-6) | ~land) & (k > 0)
    above = (target[:, None] - edge) / frame.pixel  # rows between the edge and the pixel's centre
    cover = np.where(seam, np.clip(0.5 - above, 0, 1), 0).astype(np.float32)
    under = np.where(seam & (above < 1), np.clip(above - 0.5, 0, 1), 0).astype(np.float32)
    depth = z[before, 0] + (z[after, 0] - z[before, 0]) * t
    values = [g[before, column] + (g[after, column] - g[before, column]) * t for g in (up, facing)]
    return Surface(
        first, frame.x[None, :] * depth / FOCAL, 1 + target[:, None] * depth / FOCAL, depth, values[0], values[1], land,
        cover, under, 1.2 * frame.pixel * depth / FOCAL,
    )  # fmt: skip
