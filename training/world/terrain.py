"""Six terrains: antialiased layers from far to near, with haze between them, above a textured ground plane."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from training.world.canvas import Array, Canvas, fractal, mix, rgb, ridge, sample, smoothstep
from training.world.sky import Light, gradient, reflect, shaded


@dataclass
class Land:
    """What a terrain painter needs: the canvas, the light, the sun's place and whether objects stand in front."""

    canvas: Canvas
    light: Light
    sun: tuple[float, float]
    rng: np.random.Generator
    open: bool

    @property
    def side(self) -> float:
        return 1.0 if self.sun[0] > 0 else -1.0


def ground(land: Land, albedo: Array, accent: Array, exponent: float, scale: float, top: float | None = None) -> None:
    """Perspective ground plane from height `top` (default: the horizon) down, with two-colour fractal texture."""
    c = land.canvas
    row = c.row(c.horizon if top is None else top)
    depth = 1 / np.maximum(c.y[row:, None] - c.horizon + 0.03, 0.02)
    u = c.x[None, :] * depth * 0.10 * scale + land.rng.uniform()
    v = depth * 0.16 * scale + land.rng.uniform()
    tile = fractal(exponent, 1)
    texture = sample(tile, u, v)
    relief = texture - sample(tile, u + 0.006 * land.side, v - 0.006)
    near = smoothstep(-0.05, 0.5, c.y[row:, None] - c.horizon)
    colour = mix(albedo, accent, np.clip(0.5 + 0.35 * texture, 0, 1) * (0.35 + 0.65 * near))
    lit = shaded(colour, land.light, np.clip(0.74 + 0.45 * relief * near, 0.2, 1.2))
    c.over(mix(lit, land.light.haze, 0.55 * (1 - near) ** 2 + 0 * u), np.ones_like(u), row)


def slope(land: Land, profile: Array, albedo: Array, haze: float, relief: float, frequency: float) -> None:
    """One layer of land under a skyline: embossed noise gives it faces towards and away from the sun."""
    c = land.canvas
    top, alpha, depth = c.below(profile)
    u = (c.x[None, :] + 0.35 * depth) * frequency + land.rng.uniform()
    v = depth * frequency * 0.8 + land.rng.uniform()
    tile = fractal(1.75, 2)
    lit = sample(tile, u, v) - sample(tile, u + 0.012 * land.side, v - 0.008)
    bent = np.gradient(profile, c.pixel)[None, :] * land.side * np.exp(-np.maximum(depth, 0) / 0.3)
    amount = np.clip(0.6 + relief * lit + 0.35 * np.clip(bent, -1, 1), 0.1, 1.2)
    c.over(mix(shaded(albedo, land.light, amount), land.light.haze, haze + 0 * depth), alpha, top)


def mountains(land: Land) -> None:
    """Jagged ranges with snow caps; grey-green alpine ground in front."""
    c, rng = land.canvas, land.rng
    levels = ((0.42, 0.30, 0.55, 2.2), (0.20, 0.26, 0.30, 2.0), (-0.02, 0.16, 0.08, 2.4))
    for i, (lift, swing, haze, frequency) in enumerate(levels):
        profile = c.horizon - lift - swing * ridge(rng, c.x, frequency, 7, 0.52, sharp=True)
        _range(land, profile, haze, snow=c.horizon - lift - 0.02 if i < 2 else -2.0)
    lower = c.horizon + (0.12 if land.open else 0.38)
    ground(land, rgb(0.42, 0.47, 0.34), rgb(0.58, 0.55, 0.47), 1.8, 0.9, top=lower)
    if not land.open:
        skyline = lower - 0.10 - 0.09 * ridge(rng, c.x, 2.5, 5, 0.5, sharp=False)
        slope(land, skyline, rgb(0.24, 0.36, 0.24), 0.0, 0.35, 0.5)


def _range(land: Land, profile: Array, haze: float, snow: float) -> None:
    """A rocky range; above the height `snow` it is white, with a ragged lower edge."""
    c = land.canvas
    top, alpha, depth = c.below(profile)
    u = (c.x[None, :] + 0.3 * depth) * 0.55 + land.rng.uniform()
    v = depth * 0.35 + land.rng.uniform()
    tile = fractal(1.7, 3)
    face = sample(tile, u, v) - sample(tile, u + 0.02 * land.side, v - 0.006)
    lit = smoothstep(-0.35, 0.35, face + 0.12)
    white = smoothstep(-0.03, 0.03, snow - c.y[top:, None] + 0.06 * sample(tile, u * 2, v))
    rock = mix(rgb(0.36, 0.35, 0.40), rgb(0.50, 0.46, 0.44), np.clip(0.5 + 0.4 * face, 0, 1))
    albedo = mix(rock, rgb(0.97, 0.98, 1.0), white)
    fade = haze + 0.35 * np.clip(depth / 0.6, 0, 1) * (haze > 0.2)
    c.over(mix(shaded(albedo, land.light, 0.15 + lit), land.light.haze, np.clip(fade, 0, 0.9)), alpha, top)


def sea(land: Land) -> None:
    """Open water mirroring the sky, with the sun's path; a sandy beach in front where objects stand."""
    c, rng = land.canvas, land.rng
    if rng.random() < 0.5:
        island = c.horizon + 0.03 - 0.10 * np.clip(ridge(rng, c.x, 1.4, 6, 0.5, sharp=True), 0, None)
        slope(land, np.minimum(island, c.horizon + 0.03), rgb(0.36, 0.38, 0.40), 0.5, 0.3, 0.6)
    row = c.row(c.horizon)
    below = np.maximum(c.y[row:, None] - c.horizon, 0)
    depth = 1 / (below + 0.05)
    tile = fractal(1.35, 1)
    waves = sample(tile, c.x[None, :] * depth * 0.045 + rng.uniform(), depth * 0.30 + rng.uniform())
    near = smoothstep(0, 0.6, below)
    water = reflect(land.light, np.clip(below * 0.9 + 0.10 + (0.03 + 0.12 * near) * waves, 0, 1.1))
    path = np.exp(-(((c.x[None, :] - land.sun[0]) / (0.07 + 0.28 * below)) ** 2))
    glitter = path * smoothstep(-0.1, 0.9, waves + 0.25)
    strength = 0.35 if land.light.elevation[0] > 0.5 and land.light.disc[2] > 0.92 else 0.85
    c.over(mix(water, land.light.disc, strength * glitter), np.ones_like(waves), row)
    if land.open:
        _beach(land)


def _beach(land: Land) -> None:
    """Sand below a gently curved line of foam."""
    c, rng = land.canvas, land.rng
    shore = c.horizon + 0.36 + 0.05 * ridge(rng, c.x, 0.7, 3, 0.5, sharp=False)
    before = c.rgb.copy()
    ground(land, rgb(0.93, 0.80, 0.58), rgb(1.0, 0.90, 0.70), 1.8, 0.8)
    top, alpha, depth = c.below(shore)
    wet = 1 - smoothstep(0.0, 0.14, depth)
    c.rgb[top:] *= (1 - 0.28 * wet)[..., None]
    c.rgb[:top] = before[:top]
    c.rgb[top:] = mix(before[top:], c.rgb[top:], alpha)
    foam = np.exp(-((depth / 0.016) ** 2))
    c.over(shaded(rgb(1.0, 1.0, 1.0), land.light, 0.9), 0.85 * foam, top)


def desert(land: Land) -> None:
    """Dunes with a sharp crest: one side in the sun, one in shadow."""
    c, rng = land.canvas, land.rng
    lifts = (0.16, 0.04, 0.00) if land.open else (0.14, 0.0, -0.22, -0.50)
    ground(land, rgb(0.93, 0.70, 0.42), rgb(0.98, 0.80, 0.54), 1.8, 0.8)
    for i, lift in enumerate(lifts):
        swing = 0.10 if land.open else 0.13
        profile = c.horizon - lift - swing * ridge(rng, c.x, 1.1 + 0.2 * i, 2, 0.35, sharp=False)
        _dune(land, profile, 0.55 - 0.22 * i)
    if land.open:
        ground(land, rgb(0.90, 0.66, 0.38), rgb(0.98, 0.79, 0.52), 1.75, 0.9, top=c.horizon + 0.16)


def _dune(land: Land, profile: Array, haze: float) -> None:
    """A dune below its skyline; a winding crest line divides lit and shaded faces."""
    c = land.canvas
    top, alpha, depth = c.below(profile)
    peak = float(c.x[int(np.argmin(profile))])
    crest = peak + land.side * 0.5 * depth + 0.12 * np.sin(depth * 9 + land.rng.uniform(0, 6))
    lit = smoothstep(-0.02, 0.03, (c.x[None, :] - crest) * land.side)
    ripple = sample(fractal(1.4, 2), c.x[None, :] * 0.2 + land.rng.uniform(), depth * 1.2 + land.rng.uniform())
    amount = 0.20 + 0.72 * lit + 0.05 * ripple
    colour = shaded(rgb(0.95, 0.72, 0.43), land.light, np.clip(amount, 0, 1.1))
    c.over(mix(colour, land.light.haze, max(haze, 0.0) + 0 * depth), alpha, top)


def forest(land: Land) -> None:
    """Rows of firs fading into haze; a mossy clearing in front where objects stand."""
    c = land.canvas
    if land.open:
        ground(land, rgb(0.20, 0.33, 0.16), rgb(0.38, 0.46, 0.22), 1.7, 1.0)
        rows: tuple[tuple[float, float, int, float], ...] = (
            (0.06, 0.30, 26, 0.60),
            (0.05, 0.34, 18, 0.35),
            (0.10, 0.30, 13, 0.10),
        )
    else:
        ground(land, rgb(0.16, 0.27, 0.14), rgb(0.24, 0.32, 0.16), 1.7, 1.0)
        rows = ((-0.02, 0.40, 26, 0.66), (0.14, 0.42, 19, 0.45), (0.36, 0.48, 13, 0.22), (0.66, 0.62, 9, 0.0))
    for base, height, count, haze in rows:
        profile = _firs(land.rng, c.x, c.horizon + base, height, count)
        if land.open:
            _trunks(land, profile, c.horizon + base, haze)
        else:
            slope(land, profile, rgb(0.12, 0.30, 0.17), haze, 0.35, 0.9)


def _firs(rng: np.random.Generator, x: Array, base: float, height: float, count: int, share: float = 1.0) -> Array:
    """Skyline of a row of firs: triangles with a jagged rim; only a share of them stands in a loose row."""
    centres = (np.arange(count) + rng.uniform(0.1, 0.9, count)) / count * 2.3 - 1.15
    tall = height * rng.uniform(0.6, 1.0, count) * np.where(rng.random(count) < share, 1, 0.01)
    away = np.abs(x[:, None] - centres[None, :]) / (tall * 0.30)
    jag = 0.16 * (np.abs((away * 4.0) % 1.0)) * (away < 1)
    peak = np.max(np.clip(1 - away + jag * away, 0, None) * tall, axis=1)
    return np.asarray(base - np.maximum(peak, 0.10 * height * (share == 1)), np.float32)


def _trunks(land: Land, profile: Array, base: float, haze: float) -> None:
    """A row of firs that ends at its base line instead of running down to the frame."""
    c = land.canvas
    rows = c.row(base)
    kept = c.rgb[rows:].copy()
    slope(land, profile, rgb(0.11, 0.29, 0.16), haze, 0.4, 0.9)
    c.rgb[rows:] = kept


def meadow(land: Land) -> None:
    """Rolling green hills; flowers in the grass."""
    c, rng = land.canvas, land.rng
    lifts = (0.26, 0.12, 0.02) if land.open else (0.26, 0.06, -0.20, -0.50)
    greens = (rgb(0.40, 0.62, 0.42), rgb(0.38, 0.64, 0.28), rgb(0.34, 0.60, 0.20), rgb(0.30, 0.54, 0.16))
    for i, lift in enumerate(lifts):
        profile = c.horizon - lift - 0.15 * ridge(rng, c.x, 0.8 + 0.25 * i, 2, 0.4, sharp=False)
        slope(land, profile, greens[i], 0.48 - 0.2 * i if i < 3 else 0.0, 0.22, 0.35)
    if land.open:
        ground(land, rgb(0.30, 0.56, 0.16), rgb(0.50, 0.70, 0.24), 1.7, 1.0, top=c.horizon + 0.06)
    _flowers(land)


def _flowers(land: Land) -> None:
    """Small discs that shrink with distance."""
    c, rng = land.canvas, land.rng
    petals = np.stack([rgb(1.0, 0.95, 0.9), rgb(1.0, 0.85, 0.2), rgb(0.95, 0.35, 0.45), rgb(0.8, 0.6, 0.95)])
    for _ in range(34):
        y = float(rng.uniform(c.horizon + 0.35, 1.0))
        x, radius = float(rng.uniform(-1, 1)), 0.017 * (y - c.horizon)
        r0, c0 = c.row(y - 2 * radius), c.row(x - 2 * radius)
        r1, c1 = c.row(y + 2 * radius) + 1, c.row(x + 2 * radius) + 1
        away = np.hypot(c.x[None, c0:c1] - x, (c.y[r0:r1, None] - y) * 1.4)
        alpha = np.clip((radius - away) / c.pixel + 0.5, 0, 1)[..., None]
        colour = shaded(petals[rng.integers(4)], land.light, 0.9)
        c.rgb[r0:r1, c0:c1] += alpha * (colour - c.rgb[r0:r1, c0:c1])


def snow(land: Land) -> None:
    """White hills with blue shadows, and frosted firs."""
    c, rng = land.canvas, land.rng
    lifts = (0.24, 0.10, 0.02) if land.open else (0.24, 0.06, -0.22, -0.54)
    for i, lift in enumerate(lifts):
        profile = c.horizon - lift - 0.14 * ridge(rng, c.x, 0.9 + 0.2 * i, 2, 0.4, sharp=False)
        slope(land, profile, rgb(0.94, 0.97, 1.04), max(0.40 - 0.18 * i, 0.0), 0.30, 0.3)
        if i == 1:
            _frosted(land, c.horizon - lift + 0.12, 0.40)
    if land.open:
        ground(land, rgb(0.90, 0.94, 1.02), rgb(1.0, 1.0, 1.03), 1.9, 0.7, top=c.horizon + 0.08)


def _frosted(land: Land, base: float, height: float) -> None:
    """A loose row of dark firs with pale snow on them."""
    c = land.canvas
    profile = _firs(land.rng, c.x, base, height, 9, share=0.55)
    rows, kept = c.row(base), c.rgb[c.row(base) :].copy()
    slope(land, profile, rgb(0.30, 0.47, 0.46), 0.10, 0.6, 0.8)
    c.rgb[rows:] = kept


PAINTERS: dict[str, Callable[[Land], None]] = {
    "mountains": mountains, "sea": sea, "desert": desert, "forest": forest, "meadow": meadow, "snow": snow,
}  # fmt: skip

__all__ = ["PAINTERS", "Land", "gradient", "ground"]
