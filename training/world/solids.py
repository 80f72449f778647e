"""Shaded solids by sphere tracing signed distance fields (Hart 1996), with analytic edge coverage.

World axes: x right, y up, z away from the camera, which stands at height 1 above the floor y = 0.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from training.world.canvas import Array, Canvas, mix, rgb, smoothstep
from training.world.scene import Solid

FOCAL = 2.2
PIGMENTS = {
    "red": rgb(0.88, 0.07, 0.08), "orange": rgb(1.0, 0.47, 0.03), "yellow": rgb(0.99, 0.86, 0.08),
    "green": rgb(0.08, 0.62, 0.16), "turquoise": rgb(0.06, 0.78, 0.76), "blue": rgb(0.08, 0.22, 0.88),
    "purple": rgb(0.50, 0.12, 0.76), "pink": rgb(1.0, 0.46, 0.70),
    "white": rgb(0.96, 0.96, 0.95), "black": rgb(0.07, 0.07, 0.08),
}  # fmt: skip


def sphere(x: Array, y: Array, z: Array) -> Array:
    return np.sqrt(x * x + y * y + z * z) - 1


def cube(x: Array, y: Array, z: Array) -> Array:
    """Box of half height 1 and half width 0.86, rounded by 0.05."""
    a, b, c = np.abs(x) - 0.81, np.abs(y) - 0.95, np.abs(z) - 0.81
    outside = np.sqrt(np.maximum(a, 0) ** 2 + np.maximum(b, 0) ** 2 + np.maximum(c, 0) ** 2)
    return outside + np.minimum(np.maximum(a, np.maximum(b, c)), 0) - 0.05


def cylinder(x: Array, y: Array, z: Array) -> Array:
    a, b = np.sqrt(x * x + z * z) - 0.60, np.abs(y) - 0.96
    outside = np.sqrt(np.maximum(a, 0) ** 2 + np.maximum(b, 0) ** 2)
    return outside + np.minimum(np.maximum(a, b), 0) - 0.04


def cone(x: Array, y: Array, z: Array) -> Array:
    """Base radius 0.85 at y = -1, apex at y = 1; the intersection of slant and base bounds the distance."""
    slant = (2 * np.sqrt(x * x + z * z) + 0.85 * (y - 1)) / np.sqrt(4 + 0.85**2)
    return np.maximum(slant, -1 - y)


def ring(x: Array, y: Array, z: Array) -> Array:
    """Upright torus of outer radius 1."""
    q = np.sqrt(x * x + y * y) - 0.73
    return np.sqrt(q * q + z * z) - 0.27


SHAPES: dict[str, Callable[[Array, Array, Array], Array]] = {
    "sphere": sphere, "cube": cube, "cone": cone, "cylinder": cylinder, "ring": ring,
}  # fmt: skip
YAW = {"cube": (0.35, 1.2), "ring": (-0.75, 0.75)}


@dataclass(frozen=True)
class Placed:
    """A solid at its place: centre on the floor, half height s, yaw, all in world units."""

    solid: Solid
    x: float
    z: float
    s: float
    cos: float
    sin: float

    @classmethod
    def stand(cls, solid: Solid, horizon: float, base: float) -> "Placed":
        """Put a solid on the floor so that its foot appears at height `base` of the picture."""
        z = FOCAL / (base - horizon)
        low, high = YAW.get(solid.kind, (0.0, 1.0))
        yaw = low + (high - low) * solid.yaw
        return cls(solid, solid.x * z / FOCAL, z, solid.height * z / FOCAL, float(np.cos(yaw)), float(np.sin(yaw)))

    def distance(self, x: Array, y: Array, z: Array) -> Array:
        """Signed distance in world units."""
        lx, ly, lz = (x - self.x) / self.s, y / self.s - 1, (z - self.z) / self.s
        local = SHAPES[self.solid.kind](lx * self.cos + lz * self.sin, ly, lz * self.cos - lx * self.sin)
        return local * np.float32(self.s)

    def normal(self, x: Array, y: Array, z: Array) -> Array:
        """Gradient of the distance by central differences, (..., 3)."""
        h = np.float32(0.012 * self.s)
        g = np.stack([
            self.distance(x + h, y, z) - self.distance(x - h, y, z),
            self.distance(x, y + h, z) - self.distance(x, y - h, z),
            self.distance(x, y, z + h) - self.distance(x, y, z - h),
        ], -1)  # fmt: skip
        return g / np.maximum(np.linalg.norm(g, axis=-1, keepdims=True), 1e-6)


def cast_shadows(canvas: Canvas, placed: list[Placed], sun: Array, strength: float) -> None:
    """Soft shadows (penumbra = k d / t) and contact occlusion on the floor, at half resolution."""
    row = canvas.row(canvas.horizon + 0.06) // 2 * 2
    x, y = canvas.x[::2] + canvas.pixel / 2, canvas.y[row::2] + canvas.pixel / 2
    t = 1 / np.maximum(y[:, None] - canvas.horizon, 0.03)
    px, pz = x[None, :] * t, FOCAL * t + 0 * x[None, :]
    light = np.ones_like(px)
    for p in placed:
        d = np.maximum(p.distance(px, np.zeros_like(px), pz), 0)
        light *= 1 - 0.55 * np.exp(-d / (0.22 * p.s))
        light *= 1 - strength * (1 - _visibility(p, px, pz, sun))
    full = np.repeat(np.repeat(light, 2, 0), 2, 1)
    full[1:-1] = (full[:-2] + 2 * full[1:-1] + full[2:]) / 4
    full[:, 1:-1] = (full[:, :-2] + 2 * full[:, 1:-1] + full[:, 2:]) / 4
    canvas.rgb[row:] *= full[: canvas.size - row, :, None]


def _visibility(p: Placed, x: Array, z: Array, sun: Array) -> Array:
    """Fraction of the light that reaches floor points (x, 0, z)."""
    t = np.full_like(x, 0.03 * p.s)
    seen = np.ones_like(x)
    for _ in range(14):
        d = p.distance(x + sun[0] * t, sun[1] * t, z + sun[2] * t)
        seen = np.minimum(seen, 9 * d / t)
        t = t + np.clip(d, 0.04 * p.s, 0.5 * p.s)
    return smoothstep(0, 1, seen)


def paint(canvas: Canvas, p: Placed, sun: Array, tint: Array, bounce: Array, sky: Array) -> None:
    """Trace and shade one solid into the canvas."""
    reach = 1.45 * p.solid.height
    foot = canvas.horizon + FOCAL / p.z
    r0, r1 = canvas.row(foot - 2.25 * p.solid.height), canvas.row(foot + 0.7 * p.solid.height)
    c0, c1 = canvas.row(p.solid.x - reach), canvas.row(p.solid.x + reach)
    dx, dy = np.broadcast_arrays(canvas.x[None, c0:c1], canvas.horizon - canvas.y[r0:r1, None])
    t, nearest = _march(p, dx, dy)
    alpha = np.clip(1.25 - nearest * FOCAL / (t * canvas.pixel), 0, 1)
    x, y, z = dx * t, 1 + dy * t, FOCAL * t
    view = -np.stack([dx, dy, np.full_like(dx, FOCAL)], -1)
    view /= np.linalg.norm(view, axis=-1, keepdims=True)
    colour = _shade(p, p.normal(x, y, z), view, sun, tint, bounce, sky, np.clip(y / p.s, 0, 2))
    block = canvas.rgb[r0:r1, c0:c1]
    block += (colour - block) * alpha[..., None]


def _march(p: Placed, dx: Array, dy: Array) -> tuple[Array, Array]:
    """Sphere tracing: the parameter of the nearest approach and its distance, per ray (dx, dy, FOCAL)."""
    length = np.sqrt(dx * dx + dy * dy + FOCAL**2)
    t = np.full_like(dx, (p.z - 1.7 * p.s) / FOCAL)
    best, nearest = t.copy(), np.full_like(dx, np.inf)
    for _ in range(28):
        d = p.distance(dx * t, 1 + dy * t, FOCAL * t)
        closer = d < nearest
        best, nearest = np.where(closer, t, best), np.where(closer, d, nearest)
        t = t + 0.95 * np.maximum(d, 0) / length
    return best, np.maximum(nearest, 0)


def _shade(
    p: Placed, n: Array, view: Array, sun: Array, tint: Array, bounce: Array, sky: Array, height: Array
) -> Array:
    """Wrapped diffuse, sky and floor light, Blinn-Phong highlight and a Fresnel rim."""
    pigment = PIGMENTS[p.solid.colour]
    facing = n @ sun
    diffuse = np.clip((facing + 0.25) / 1.25, 0, 1)
    up = 0.5 + 0.5 * n[..., 1]
    ambient = mix(0.55 * bounce + 0.10, 0.5 * sky + 0.45, up) * (0.55 + 0.45 * smoothstep(0, 0.5, height))[..., None]
    colour = pigment * tint * (0.56 * ambient + 0.74 * diffuse[..., None])
    half = sun + view
    half /= np.linalg.norm(half, axis=-1, keepdims=True)
    sharp, gain = (70.0, 0.85) if p.solid.glossy else (9.0, 0.10)
    highlight = gain * np.clip((n * half).sum(-1), 0, 1) ** sharp
    fresnel = (1 - np.clip((n * view).sum(-1), 0, 1)) ** 3
    rim = (0.30 if p.solid.glossy else 0.14) * fresnel * up
    return colour + tint * highlight[..., None] + sky * rim[..., None]
