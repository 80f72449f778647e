"""Picture of a scene: sky, land or studio, shadows, solids, photographic finish."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from training.world import sky, solids, terrain
from training.world.canvas import Array, Canvas, fractal, mix, rgb, sample, smoothstep
from training.world.scene import Quality, Scene, generator

WALLS = {
    "grey": rgb(0.62, 0.63, 0.65), "cream": rgb(0.93, 0.87, 0.74), "rose": rgb(0.93, 0.68, 0.72),
    "sky": rgb(0.46, 0.70, 0.92), "mint": rgb(0.60, 0.86, 0.70), "lilac": rgb(0.74, 0.66, 0.90),
    "charcoal": rgb(0.20, 0.21, 0.24),
}  # fmt: skip
FLAWLESS = Quality()


def render(scene: Scene, size: int = 256, quality: Quality = FLAWLESS) -> NDArray[np.uint8]:
    """Render a scene to (size, size, 3) uint8, the same bytes for the same scene."""
    rng = generator(scene.seed, "pixels")
    picture = _studio(scene, size, rng) if scene.scene == "studio" else _outdoors(scene, size, rng)
    return _finish(picture, quality, rng)


def _outdoors(scene: Scene, size: int, rng: np.random.Generator) -> Array:
    """Sky, terrain and, in front, the objects."""
    occupied = len(scene.solids) > 0
    horizon = float(rng.uniform(-0.16, -0.04) if occupied else rng.uniform(-0.08, 0.10))
    canvas = Canvas.blank(size, horizon)
    light = sky.LIGHTS[scene.time]
    sun = sky.paint(canvas, light, rng, scene.time)
    terrain.PAINTERS[scene.scene](terrain.Land(canvas, light, sun, rng, occupied))
    direction = _unit(0.75 if sun[0] > 0 else -0.75, 0.85, -0.75)
    _place(canvas, scene, direction, light.solid, light.sky[1], rng, 0.45 if scene.time == "night" else 0.55)
    return canvas.rgb


def _studio(scene: Scene, size: int, rng: np.random.Generator) -> Array:
    """A sweep of paper with a lit floor, or planks or tiles, in front of a coloured wall."""
    canvas = Canvas.blank(size, float(rng.uniform(-0.5, -0.34)))
    wall = WALLS[scene.backdrop]
    spot = np.hypot(canvas.x[None, :] - rng.uniform(-0.25, 0.25), 0.8 * (canvas.y[:, None] + 0.55))
    canvas.rgb[:] = wall * (1.06 - 0.30 * smoothstep(0.1, 1.5, spot))[..., None]
    if scene.floor == "plain":
        _paper(canvas)
    else:
        row, colour = (_planks if scene.floor == "wood" else _tiles)(canvas, rng)
        _lay(canvas, row, colour, wall)
    side = float(rng.choice((-1.0, 1.0)))
    _place(canvas, scene, _unit(0.7 * side, 1.05, -0.8), rgb(1.0, 1.0, 0.98), mix(wall, rgb(1, 1, 1), 0.4), rng, 0.5)
    return canvas.rgb


def _unit(*values: float) -> Array:
    vector = rgb(*values)
    return vector / np.linalg.norm(vector)


def _place(
    canvas: Canvas, scene: Scene, sun: Array, tint: Array, zenith: Array, rng: np.random.Generator, shadow: float
) -> None:
    """Stand the objects on the floor, the shadows first, far objects before near ones."""
    base = [float(rng.uniform(0.56, 0.70)) for _ in scene.solids]
    placed = [solids.Placed.stand(s, canvas.horizon, b) for s, b in zip(scene.solids, base, strict=True)]
    if placed:
        bounce = canvas.rgb[-canvas.size // 6 :].mean((0, 1))
        solids.cast_shadows(canvas, placed, sun, shadow)
        for p in sorted(placed, key=lambda p: -p.z):
            solids.paint(canvas, p, sun, tint, bounce, zenith)


def _paper(canvas: Canvas) -> None:
    """Seamless paper: the wall bends into a lighter floor."""
    bend = smoothstep(canvas.horizon - 0.02, canvas.horizon + 0.35, canvas.y)[:, None] + 0 * canvas.x[None, :]
    shade = 1.0 + 0.13 * bend - 0.16 * np.exp(-(((canvas.y[:, None] - canvas.horizon) / 0.16) ** 2))
    canvas.rgb *= shade[..., None]


def _floor_coordinates(canvas: Canvas) -> tuple[int, Array, Array, Array]:
    """Rows of the floor, its world coordinates and the footprint of a pixel in world units."""
    row = canvas.row(canvas.horizon)
    t = 1 / np.maximum(canvas.y[row:, None] - canvas.horizon, 0.01)
    return row, canvas.x[None, :] * t, solids.FOCAL * t + 0 * canvas.x[None, :], canvas.pixel * t


def _planks(canvas: Canvas, rng: np.random.Generator) -> tuple[int, Array]:
    """Boards running towards the camera, each of its own shade, with grain and dark joints."""
    row, x, z, footprint = _floor_coordinates(canvas)
    board = np.floor(x / 0.5)
    tone = 0.5 + 0.5 * np.sin(board * 12.9898 + rng.uniform(0, 6))
    grain = sample(fractal(1.2, 3), x * 0.7 + board * 0.37, z * 0.05 + board * 0.61)
    joint = smoothstep(0.5, 1.6, np.abs((x / 0.5) % 1 - 0.5) * 2 * 0.5 / (0.5 - 1.5 * np.maximum(footprint, 0.012)))
    colour = mix(rgb(0.46, 0.28, 0.15), rgb(0.66, 0.43, 0.25), np.clip(tone + 0.12 * grain, 0, 1))
    return row, colour * (1 - 0.35 * joint)[..., None]


def _tiles(canvas: Canvas, rng: np.random.Generator) -> tuple[int, Array]:
    """Checkered tiles, box-filtered over the footprint of a pixel (IQ's integral form)."""
    row, x, z, footprint = _floor_coordinates(canvas)
    checker = _square(x * 1.1 + 0.25, footprint * 1.1) * _square(z * 0.55 + rng.uniform(), footprint * 1.6)
    checker *= smoothstep(0.02, 0.3, canvas.y[row:, None] - canvas.horizon)
    return row, mix(rgb(0.16, 0.16, 0.18), rgb(0.93, 0.92, 0.89), 0.5 + 0.5 * checker)


def _square(x: Array, width: Array) -> Array:
    """Square wave of period 2 averaged over `width`."""

    def integral(u: Array) -> Array:
        return np.abs((u / 2) % 1 - 0.5) * 2

    width = np.clip(width, 1e-3, 4)
    return (integral(x - width / 2) - integral(x + width / 2)) / width


def _lay(canvas: Canvas, row: int, colour: Array, wall: Array) -> None:
    """Lay a floor: darker under the wall, tinted by it in the distance."""
    near = smoothstep(0, 0.7, canvas.y[row:, None] - canvas.horizon) + 0 * canvas.x[None, :]
    lit = mix(mix(colour, wall, 0.35), colour, near) * (0.78 + 0.27 * near)[..., None]
    canvas.over(lit, np.ones_like(near), row)


def _finish(picture: Array, quality: Quality, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Vignette, quality knob, quantisation."""
    axis = np.linspace(-1, 1, picture.shape[0], dtype=np.float32) ** 2
    picture = picture * (1 - 0.10 * (axis[:, None] + axis[None, :]) ** 2 / 2)[..., None] * quality.exposure
    grey = picture.mean(-1, keepdims=True)
    picture = grey + (picture - grey) * quality.colour
    if quality.blur:
        picture = ndimage.gaussian_filter(picture, (quality.blur, quality.blur, 0))
    if quality.noise:
        picture = picture + quality.noise * rng.standard_normal(picture.shape).astype(np.float32)
    return (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)
