"""The studio: seamless paper, planks or tiles, a wall with a pool of light, softboxes to be mirrored."""

import numpy as np

from training.world.canvas import Array, Frame, fractal, mix, paint, rgb, scatter, smoothstep, unit
from training.world.light import FOCAL
from training.world.scene import Scene
from training.world.solids import Lamp

WALLS = {
    "grey": paint("9a9ca0"), "cream": paint("eedfbe"), "rose": paint("eaa5b1"), "sky": paint("74b4e6"),
    "mint": paint("94d6ac"), "lilac": paint("b7a4e2"), "charcoal": paint("35373c"),
}  # fmt: skip
MIRROR = {"plain": 0.07, "wood": 0.22, "checkered": 0.34}


def room(frame: Frame, scene: Scene, rng: np.random.Generator) -> tuple[float, Lamp]:
    """Draw the empty studio; returns the horizon and the light in it."""
    horizon, side = float(rng.uniform(-0.46, -0.32)), float(rng.choice((-1.0, 1.0)))
    wall, warm = WALLS[scene.backdrop], float(rng.uniform(-0.05, 0.05))
    _wall(frame, wall, horizon, side, float(rng.uniform(0.2, 0.5)))
    floor = wall
    if scene.floor == "plain":
        _paper(frame, wall, horizon, side)
    else:
        edge = horizon + 0.10
        row, albedo = (_planks if scene.floor == "wood" else _tiles)(frame, horizon, edge, rng)
        floor = paint("8a5b35") if scene.floor == "wood" else paint("9c9a95")
        _lay(frame, row, albedo, wall, edge, side)
    key = rgb(1.15 + warm, 1.10, 1.05 - warm)
    toward = unit(0.75 * side, 1.1, -0.75)

    def around(d: Array) -> Array:
        return _surroundings(d, wall, floor, side)

    return horizon, Lamp(toward, key, mix(wall, rgb(1, 1, 1), 0.6) * 0.42, floor * 0.34, around, 6.0)


def _surroundings(d: Array, wall: Array, floor: Array, side: float) -> Array:
    """What a mirror sees: a dim room, the wall ahead, the floor, a large softbox and a strip light."""
    x, y, z = d[..., 0] * side, d[..., 1], d[..., 2]
    base = mix(wall * 0.85, wall * 0.30 + 0.05, smoothstep(0.3, -0.6, z))
    base = mix(base, base * 0.45, smoothstep(0.2, 0.9, y))
    base = mix(base, floor * (0.55 + 0.25 * smoothstep(0.5, -0.5, z))[..., None], smoothstep(0.02, -0.06, y))
    u, v = x / np.maximum(y, 0.05), z / np.maximum(y, 0.05)
    inside = smoothstep(0.05, 0.16, y)
    box = _between(u, 0.10, 1.45) * _between(v, -1.35, 0.25)
    tall = _between(y, -0.05, 0.80) * smoothstep(0.3, 0.1, z)
    strips = _between(x, -0.88, -0.60) + 1.6 * _between(x, 0.34, 0.66)
    return np.asarray(base + (2.6 * box * inside + 1.2 * strips * tall)[..., None])


def _between(x: Array, low: float, high: float) -> Array:
    return np.asarray(smoothstep(low, low + 0.05, x) * smoothstep(high, high - 0.05, x))


def _wall(frame: Frame, wall: Array, horizon: float, side: float, spot: float) -> None:
    """A wall with a pool of light, darker towards the corners."""
    away = np.hypot(frame.x[None, :] - spot * side, 0.9 * (frame.y[:, None] - horizon + 0.15))
    light = 0.50 + 0.62 * np.exp(-((away / 0.85) ** 2))
    frame.rgb[:] = wall * light[..., None]


def _paper(frame: Frame, wall: Array, horizon: float, side: float) -> None:
    """Seamless paper: the wall bends into a floor that the lamp lights from above."""
    y = frame.y[:, None]
    bend = smoothstep(horizon - 0.10, horizon + 0.50, y)
    away = np.hypot(frame.x[None, :] - 0.15 * side, 1.2 * (y - 0.45))
    floor = wall * (0.62 + 0.42 * np.exp(-((away / 0.95) ** 2)))[..., None]
    frame.rgb[:] = mix(frame.rgb, floor, bend + 0 * away)


def _floor(frame: Frame, horizon: float, edge: float) -> tuple[int, Array, Array, Array]:
    """First row of the floor, its world coordinates and the footprint of a pixel."""
    row = frame.row(edge - frame.pixel / 2)
    t = 1 / np.maximum(frame.y[row:, None] - horizon, 0.02)
    return row, frame.x[None, :] * t, FOCAL * t + 0 * frame.x[None, :], frame.pixel * t


def _planks(frame: Frame, horizon: float, edge: float, rng: np.random.Generator) -> tuple[int, Array]:
    """Boards that run away from the camera, each of its own shade, with grain and dark joints."""
    row, x, z, footprint = _floor(frame, horizon, edge)
    board, salt = np.floor(x / 0.42), int(rng.integers(1000))
    length = np.floor(z / 3.2 + 3 * scatter(board, np.zeros_like(board), salt))
    tone = scatter(board, length, salt)
    grain = fractal(1.3, 3, x * 1.1 + board * 0.37, z * 0.055 + length * 0.61, footprint * 1.4)
    ring = fractal(1.7, 2, x * 0.5 + board * 0.7, z * 0.03 + length * 0.3, footprint * 0.5)
    wide = np.maximum(footprint, 0.008)
    across = x % 0.42
    joint = np.clip(1.1 - np.minimum(across, 0.42 - across) / wide, 0, 1)
    colour = mix(paint("6f4526"), paint("a9713f"), np.clip(0.15 + 0.6 * tone + 0.16 * grain + 0.12 * ring, 0, 1))
    return row, colour * (1 - 0.55 * joint * np.clip(0.012 / wide, 0.3, 1))[..., None]


def _tiles(frame: Frame, horizon: float, edge: float, rng: np.random.Generator) -> tuple[int, Array]:
    """Checkered tiles, box-filtered over the footprint of a pixel."""
    row, x, z, footprint = _floor(frame, horizon, edge)
    across = _square(x * 1.7 + 0.25, footprint * 1.7)
    checker = across * _square(z * 1.05 + rng.uniform(0, 2), footprint * z / FOCAL * 1.05)
    veins = fractal(1.3, 6, x * 0.3, z * 0.3, footprint * 0.5)
    tone = np.clip(0.5 + 0.5 * checker + 0.02 * veins, 0, 1)
    return row, mix(paint("26272b"), paint("e9e6de"), tone)


def _square(x: Array, width: Array) -> Array:
    """Square wave of period 2 averaged over `width`."""

    def integral(u: Array) -> Array:
        return np.asarray(np.abs((u / 2) % 1 - 0.5) * 2)

    width = np.clip(width, 1e-3, 4)
    return np.asarray((integral(x - width / 2) - integral(x + width / 2)) / width)


def _lay(frame: Frame, row: int, albedo: Array, wall: Array, edge: float, side: float) -> None:
    """Light a floor: a pool under the lamp, the wall's colour in the distance, a dark line under the wall."""
    y = frame.y[row:, None]
    near = smoothstep(edge, edge + 0.8, y)
    away = np.hypot(frame.x[None, :] - 0.2 * side, 1.1 * (y - 0.4))
    light = (0.50 + 0.60 * np.exp(-((away / 1.0) ** 2))) * (1 - 0.35 * np.exp(-(y - edge) / 0.05))
    sheen = 0.16 * (1 - near) ** 2 + 0.03
    colour = albedo * light[..., None]
    frame.over(mix(colour, wall * 0.8, sheen + 0 * away), np.clip((y - edge) / frame.pixel + 0.5, 0, 1) + 0 * away, row)
