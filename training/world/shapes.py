"""Signed distances of the solids, their place on the floor and sphere tracing (Hart 1996)."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from training.world.canvas import Array
from training.world.light import FOCAL
from training.world.scene import Solid


def sphere(x: Array, y: Array, z: Array) -> Array:
    return np.asarray(np.sqrt(x * x + y * y + z * z) - 1)


def cube(x: Array, y: Array, z: Array) -> Array:
    """Box of half height 1 and half width 0.9, rounded by 0.07."""
    a, b, c = np.abs(x) - 0.83, np.abs(y) - 0.93, np.abs(z) - 0.83
    outside = np.sqrt(np.maximum(a, 0) ** 2 + np.maximum(b, 0) ** 2 + np.maximum(c, 0) ** 2)
    return np.asarray(outside + np.minimum(np.maximum(a, np.maximum(b, c)), 0) - 0.07)


def cylinder(x: Array, y: Array, z: Array) -> Array:
    a, b = np.sqrt(x * x + z * z) - 0.58, np.abs(y) - 0.94
    outside = np.sqrt(np.maximum(a, 0) ** 2 + np.maximum(b, 0) ** 2)
    return np.asarray(outside + np.minimum(np.maximum(a, b), 0) - 0.06)


def cone(x: Array, y: Array, z: Array) -> Array:
    """Base radius 0.88 at y = -1, apex at y = 1, rounded by 0.03; slant and base bound the distance."""
    slant = (2 * np.sqrt(x * x + z * z) + 0.88 * (y - 0.93)) / np.sqrt(4 + 0.88**2)
    a, b = slant, -0.97 - y
    outside = np.sqrt(np.maximum(a, 0) ** 2 + np.maximum(b, 0) ** 2)
    return np.asarray(outside + np.minimum(np.maximum(a, b), 0) - 0.03)


def ring(x: Array, y: Array, z: Array) -> Array:
    """Upright torus of outer radius 1."""
    q = np.sqrt(x * x + y * y) - 0.71
    return np.asarray(np.sqrt(q * q + z * z) - 0.29)


SHAPES: dict[str, Callable[[Array, Array, Array], Array]] = {
    "sphere": sphere, "cube": cube, "cone": cone, "cylinder": cylinder, "ring": ring,
}  # fmt: skip
YAW = {"cube": (0.35, 1.2), "ring": (-0.75, 0.75)}
MARCH, SHADOW = 26, 13  # steps


@dataclass(frozen=True)
class Placed:
    """A solid at its place: centre (x, z) on the floor, half height s, yaw; flip -1 is its image in the floor."""

    solid: Solid
    x: float
    z: float
    s: float
    cos: float
    sin: float
    flip: float = 1.0

    @classmethod
    def stand(cls, solid: Solid, horizon: float) -> "Placed":
        """Put a solid on the floor so that its foot appears at its base in the picture."""
        z = FOCAL / (solid.base - horizon)
        low, high = YAW.get(solid.kind, (0.0, 1.0))
        yaw = low + (high - low) * solid.yaw
        return cls(solid, solid.x * z / FOCAL, z, solid.height * z / FOCAL, float(np.cos(yaw)), float(np.sin(yaw)))

    def distance(self, x: Array, y: Array, z: Array) -> Array:
        """Signed distance in world units."""
        lx, ly, lz = (x - self.x) / self.s, self.flip * y / self.s - 1, (z - self.z) / self.s
        if self.solid.kind in YAW:
            lx, lz = lx * self.cos + lz * self.sin, lz * self.cos - lx * self.sin
        return SHAPES[self.solid.kind](lx, ly, lz) * np.float32(self.s)

    def normal(self, x: Array, y: Array, z: Array) -> Array:
        """Gradient of the distance by central differences, (..., 3)."""
        h = np.float32(0.012 * self.s)
        g = np.stack([
            self.distance(x + h, y, z) - self.distance(x - h, y, z),
            self.distance(x, y + h, z) - self.distance(x, y - h, z),
            self.distance(x, y, z + h) - self.distance(x, y, z - h),
        ], -1)  # fmt: skip
        return np.asarray(g / np.maximum(np.sqrt((g * g).sum(-1, keepdims=True)), 1e-6))

    def trace(self, dx: Array, dy: Array, pixel: float) -> tuple[Array, Array]:
        """Where rays (dx, dy, FOCAL) t from the camera come closest, and the coverage of their pixels."""
        length = np.sqrt(dx * dx + dy * dy + FOCAL**2)
        t = np.full_like(dx, (self.z - 1.75 * self.s) / FOCAL)
        best, nearest = t, np.full_like(dx, np.inf)
        for _ in range(MARCH):
            d = self.distance(dx * t, 1 + dy * t, FOCAL * t)
            best, nearest = np.where(d < nearest, t, best), np.minimum(d, nearest)
            t = t + 0.95 * np.maximum(d, 0) / length
        return best, np.clip(1 - (nearest - 0.002 * self.s) * FOCAL / (best * FOCAL * pixel), 0, 1)

    def visibility(self, x: Array, y: Array, z: Array, toward: Array, softness: float) -> Array:
        """Share of the light from the direction `toward` that passes the solid; penumbra of a wide lamp."""
        t, seen = np.full_like(x, 0.03 * self.s), np.ones_like(x)
        for _ in range(SHADOW):
            d = self.distance(x + toward[0] * t, y + toward[1] * t, z + toward[2] * t)
            seen = np.minimum(seen, softness * d / t)
            t = t + np.clip(d, 0.05 * self.s, 0.55 * self.s)
        seen = np.clip(0.5 + 0.5 * seen, 0, 1)
        return np.asarray(seen * seen * (3 - 2 * seen))
