"""Firs: rows of trees from far to near with light and mist between them."""

from dataclasses import dataclass

import numpy as np

from training.world.canvas import Array, Frame, fractal, mix, paint, rgb, scatter, smoothstep, wander
from training.world.land import cast
from training.world.light import Light
from training.world.scene import Scene

Random = np.random.Generator


def _hash(cell: Array, salt: int) -> Array:
    return scatter(cell, np.zeros_like(cell), salt)


def _row(
    frame: Frame,
    light: Light,
    base: Array,
    height: float,
    spacing: float,
    seed: float,
    fog: float,
    share: float,
    frost: float = 0.0,
) -> None:
    """One row of firs whose feet stand on the curve y = base(x)."""
    top = frame.row(float(base.min()) - 1.15 * height)
    bottom = frame.row(float(base.max()) + 2 * frame.pixel)
    if bottom <= top:
        return
    y, cell = frame.y[top:bottom, None], np.floor(frame.x / spacing)
    for side in (-1, 1, 0):
        c = cell + side
        tall = height * (0.55 + 0.45 * _hash(c + seed, 1)) * (_hash(c + seed, 2) < share)
        dx = frame.x - (c + 0.5 + 0.5 * (_hash(c + seed, 3) - 0.5)) * spacing
        up = (base[None, :] - y) / np.maximum(tall, 1e-3)
        near = (up < 1.02) & (up * tall > -frame.pixel) & (np.abs(dx) < 0.30 * tall + frame.pixel)
        rows, columns = np.nonzero(near & (tall > 0.01))
        tree = Tree(frame.x[columns], dx[columns], up[rows, columns], tall[columns], (c + seed)[columns])
        colour, alpha = _tree(tree, light, frame.pixel, fog, frost)
        block = frame.rgb[top:bottom]
        block[rows, columns] += (colour - block[rows, columns]) * alpha[:, None]


@dataclass(frozen=True)
class Tree:
    """Pixels of firs, all (n,): place, offset from the stem, height up the tree, the tree's size and number."""

    x: Array
    dx: Array
    up: Array
    tall: Array
    number: Array


def _tree(t: Tree, light: Light, pixel: float, fog: float, frost: float) -> tuple[Array, Array]:
    """Colour and coverage of firs: tiers of branches, lit from the side, with a rim towards the sun."""
    width = 0.19 + 0.06 * _hash(t.number, 4)
    tier = (t.up * (9 + 4 * _hash(t.number, 5))) % 1.0
    ragged = fractal(1.0, 6, t.dx * 3 + t.number * 0.31, t.up * 0.6, pixel * 3)
    crown = np.clip(1 - t.up, 0, 1) ** 0.9 * (0.62 + 0.42 * (1 - tier)) * (1 + 0.12 * ragged) * width * t.tall
    crown = np.where(t.up > 0.07, crown, 0.022 * t.tall)
    alpha = np.clip((crown - np.abs(t.dx)) / pixel + 0.5, 0, 1) * np.clip(t.up * t.tall / pixel + 0.5, 0, 1)
    turn = np.clip(t.dx / np.maximum(crown, 1e-4), -1, 1) * light.side
    above = np.clip(t.up, 0, 1)
    lit = np.clip(0.30 + 0.55 * turn + 0.25 * (0.5 - tier) + 0.13 * ragged, 0, 1) * (0.35 + 0.65 * above)
    leaf = mix(paint("1d3a22"), paint("4c6b31"), np.clip(0.4 + 0.3 * ragged, 0, 1))
    if frost:
        white = smoothstep(0.35, 0.75, (1 - tier) * 0.8 + 0.25 * ragged + 0.15 * turn)
        leaf, lit = mix(leaf, rgb(0.62, 0.66, 0.72), frost * white), 0.25 + 0.75 * lit
    colour = light.shade(leaf, lit, np.clip(0.3 + 0.6 * t.up, 0, 1))
    rim = np.exp(-((t.x - light.x) ** 2) / 0.25) * smoothstep(0.5, 1.0, np.abs(turn)) * (1 - fog)
    colour = colour + (0.10 * rim)[:, None] * light.palette.key
    mist = np.clip(fog + (0.65 - 0.4 * fog) * fog * np.exp(-above / 0.35), 0, 1)
    return light.fog(colour, t.x, mist), alpha


def forest(frame: Frame, light: Light, scene: Scene, rng: Random) -> None:
    """Wooded slopes one behind another, or a clearing with moss where objects stand."""
    if scene.solids:
        _clearing(frame, light, rng)
        rows: tuple[tuple[float, float, float, float], ...] = (
            (0.0, 0.30, 0.06, 0.72),
            (0.02, 0.32, 0.085, 0.50),
            (0.05, 0.36, 0.12, 0.27),
        )
    else:
        rows = (
            (-0.12, 0.20, 0.042, 0.86), (-0.05, 0.28, 0.062, 0.74), (0.06, 0.40, 0.095, 0.58),
            (0.26, 0.52, 0.13, 0.40), (0.54, 0.74, 0.19, 0.20), (1.02, 1.05, 0.28, 0.04),
        )  # fmt: skip
    for k, (down, height, spacing, fog) in enumerate(rows):
        swing = 0.012 if scene.solids else 0.10 * (1 - 0.1 * k)
        base = light.horizon + down + swing * wander(rng, frame.x, 0.7, 3, 0.5)
        if not scene.solids:
            _slope(frame, light, base, fog)
        share = 0.95 if fog > 0.3 or scene.solids else 0.8
        _row(frame, light, base, height, spacing, float(rng.integers(1000)), fog, share)
        if not scene.solids:
            _mist(frame, light, base, 0.22 * fog + 0.05, rng)


def _slope(frame: Frame, light: Light, base: Array, fog: float) -> None:
    """Undergrowth below a row of trees: ferns with lit tips."""
    top = frame.row(float(base.min()) - 0.03)
    x, depth = frame.x[None, :], frame.y[top:, None] - base[None, :]
    fern = fractal(1.1, 4, x * 0.55 + 7 * fog, depth * 0.8, frame.pixel * 0.9)
    alpha = np.clip((depth + 0.010 * fern) / frame.pixel + 0.5, 0, 1)
    albedo = mix(paint("1d2f18"), paint("4d6430"), np.clip(0.35 + 0.3 * fern, 0, 1))
    colour = light.shade(albedo, np.clip(0.28 + 0.22 * fern, 0, 1), 0.4 + 0 * depth + 0 * x)
    frame.over(light.fog(colour, x, fog + 0 * depth), alpha, top)


def _mist(frame: Frame, light: Light, base: Array, amount: float, rng: Random) -> None:
    """A bank of fog at the feet of a row."""
    u0 = float(rng.uniform())
    away = (frame.y[:, None] - base[None, :] + 0.02) / 0.13
    wisps = fractal(1.8, 2, frame.x[None, :] * 0.15 + u0, frame.y[:, None] * 0.5, frame.pixel * 0.5)
    alpha = amount * np.exp(-(away**2)) * np.clip(0.8 + 0.35 * wisps, 0, 1.5)
    frame.rgb[:] = light.fog(frame.rgb, frame.x[None, :], np.clip(alpha, 0, 1))


def _clearing(frame: Frame, light: Light, rng: Random) -> None:
    """Level ground of moss and needles with patches of light."""
    u0 = float(rng.uniform())
    s = cast(frame, light, lambda x, z, f: 0.012 * fractal(1.7, 1, x * 0.2 + u0, z * 0.2, f * 0.2), 40)
    moss = fractal(1.4, 3, s.x * 0.25 + u0, s.z * 0.25, s.footprint * 0.4)
    dapple = smoothstep(-0.3, 0.9, fractal(1.8, 2, s.x * 0.10, s.z * 0.07 + u0, s.footprint * 0.1))
    albedo = mix(paint("3a3f1e"), paint("6d8034"), np.clip(0.5 + 0.35 * moss, 0, 1))
    colour = light.shade(albedo, (0.15 + 0.7 * dapple) * s.facing, s.up)
    rows, fog = frame.rgb[s.top :], 0.9 * (1 - np.exp(-s.z / 16))
    rows[:] = np.where(s.land[..., None], light.fog(colour, frame.x[None, :], fog), rows)


def frosted(frame: Frame, light: Light, rng: Random) -> None:
    """Loose rows of firs with snow on their branches."""
    for down, height, spacing, fog in ((0.00, 0.22, 0.06, 0.62), (0.07, 0.34, 0.11, 0.38), (0.20, 0.52, 0.20, 0.12)):
        base = light.horizon + down + 0.04 * wander(rng, frame.x, 0.8, 3, 0.5)
        _row(frame, light, base, height, spacing, float(rng.integers(1000)), fog, 0.55 if fog > 0.2 else 0.4, 0.9)
