"""Sky and light: gradients, sun, moon, stars and clouds at four times of day."""

from dataclasses import dataclass

import numpy as np

from training.world.canvas import Array, Canvas, fractal, mix, rgb, sample, smoothstep


@dataclass(frozen=True)
class Light:
    """The light of one time of day; sky runs from the horizon to the zenith."""

    sky: tuple[Array, Array, Array]
    haze: Array
    ambient: Array
    key: Array
    solid: Array  # tint of the light on objects: brighter than the land's, so that colours stay readable
    disc: Array
    elevation: tuple[float, float]  # of sun or moon above the horizon
    cloud: Array


LIGHTS = {
    "dawn": Light(
        sky=(rgb(1.0, 0.83, 0.72), rgb(0.93, 0.74, 0.82), rgb(0.5, 0.58, 0.84)),
        haze=rgb(0.95, 0.81, 0.82),
        ambient=rgb(0.58, 0.51, 0.62),
        key=rgb(0.5, 0.38, 0.34),
        solid=rgb(1.0, 0.93, 0.93),
        disc=rgb(1.0, 0.97, 0.86),
        elevation=(0.12, 0.34),
        cloud=rgb(1.0, 0.87, 0.86),
    ),
    "day": Light(
        sky=(rgb(0.78, 0.92, 1.0), rgb(0.36, 0.67, 0.97), rgb(0.07, 0.33, 0.8)),
        haze=rgb(0.72, 0.86, 0.97),
        ambient=rgb(0.46, 0.53, 0.62),
        key=rgb(0.7, 0.64, 0.52),
        solid=rgb(1.05, 1.04, 1.0),
        disc=rgb(1.0, 1.0, 0.94),
        elevation=(0.55, 0.85),
        cloud=rgb(1.0, 1.0, 1.0),
    ),
    "sunset": Light(
        sky=(rgb(1.0, 0.76, 0.26), rgb(0.93, 0.36, 0.22), rgb(0.24, 0.11, 0.38)),
        haze=rgb(0.98, 0.52, 0.24),
        ambient=rgb(0.42, 0.3, 0.38),
        key=rgb(0.66, 0.36, 0.16),
        solid=rgb(1.04, 0.9, 0.82),
        disc=rgb(1.0, 0.95, 0.62),
        elevation=(0.05, 0.26),
        cloud=rgb(1.0, 0.55, 0.42),
    ),
    "night": Light(
        sky=(rgb(0.15, 0.24, 0.5), rgb(0.05, 0.1, 0.28), rgb(0.01, 0.02, 0.08)),
        haze=rgb(0.09, 0.15, 0.34),
        ambient=rgb(0.21, 0.27, 0.47),
        key=rgb(0.27, 0.32, 0.43),
        solid=rgb(0.84, 0.87, 0.96),
        disc=rgb(0.97, 0.97, 0.9),
        elevation=(0.45, 0.8),
        cloud=rgb(0.14, 0.19, 0.34),
    ),
}


def gradient(light: Light, elevation: Array) -> Array:
    """Colour of the sky at an elevation in [0, 1] above the horizon, shape (..., 3)."""
    stops = np.stack(light.sky)
    channels = [np.interp(elevation, (0.0, 0.38, 1.1), stops[:, c]) for c in range(3)]
    return np.stack(channels, -1).astype(np.float32)


def paint(canvas: Canvas, light: Light, rng: np.random.Generator, time: str) -> tuple[float, float]:
    """Fill the canvas with sky; returns the position of the sun or moon."""
    elevation = np.maximum(canvas.horizon - canvas.y, 0)
    canvas.rgb[:] = gradient(light, elevation)[:, None, :]
    sun = (float(rng.uniform(-0.65, 0.65)), canvas.horizon - float(rng.uniform(*light.elevation)))
    if time == "night":
        _stars(canvas, rng)
    _glow(canvas, light, sun, time)
    _disc(canvas, light, sun, time)
    if rng.random() < (0.45 if time == "night" else 0.7):
        _clouds(canvas, light, rng, sun)
    return sun


def _stars(canvas: Canvas, rng: np.random.Generator) -> None:
    """A sprinkling of stars, a few of them bright enough to cover several pixels."""
    bottom = max(canvas.row(canvas.horizon), 2)
    for count, brightness, reach in ((90, 0.5, 0), (26, 0.95, 1)):
        rows, cols = rng.integers(1, bottom, count), rng.integers(1, canvas.size - 1, count)
        canvas.rgb[rows, cols] += (brightness * rng.uniform(0.4, 1, (count, 1))).astype(np.float32)
        for dr, dc in ((0, 1), (1, 0), (0, -1), (-1, 0))[: 4 * reach]:
            canvas.rgb[np.clip(rows + dr, 0, bottom), np.clip(cols + dc, 0, canvas.size - 1)] += np.float32(0.22)


def _distance(canvas: Canvas, sun: tuple[float, float]) -> Array:
    return np.hypot(canvas.x[None, :] - sun[0], canvas.y[:, None] - sun[1])


def _glow(canvas: Canvas, light: Light, sun: tuple[float, float], time: str) -> None:
    """Scattered light round the disc."""
    r = _distance(canvas, sun)
    strength = {"dawn": 0.55, "day": 0.45, "sunset": 0.75, "night": 0.28}[time]
    canvas.over(light.disc, strength * (0.55 * np.exp(-((r / 0.22) ** 2)) + 0.45 * np.exp(-r / 0.45)))


def _disc(canvas: Canvas, light: Light, sun: tuple[float, float], time: str) -> None:
    """Sun or moon with an antialiased rim; the moon has maria."""
    radius = {"dawn": 0.085, "day": 0.075, "sunset": 0.13, "night": 0.095}[time]
    r = _distance(canvas, sun)
    colour: Array = light.disc
    if time == "night":
        maria = sample(fractal(1.6), canvas.x[None, :] * 1.1, canvas.y[:, None] * 1.1)
        colour = light.disc * (1 - 0.16 * smoothstep(0.1, 0.9, maria))[..., None]
    canvas.over(colour, np.clip((radius - r) / canvas.pixel + 0.5, 0, 1))


def _clouds(canvas: Canvas, light: Light, rng: np.random.Generator, sun: tuple[float, float]) -> None:
    """Perspective cloud deck, thinning towards the horizon and lit from the sun's side."""
    bottom = max(canvas.row(canvas.horizon), 2)
    e = canvas.horizon - canvas.y[:bottom, None] + 0.16
    u, v = canvas.x[None, :] / e * 0.16 + rng.uniform(), 0.34 / e + rng.uniform() + 0 * canvas.x[None, :]
    tile = fractal(1.65, int(rng.integers(4)))
    density = sample(tile, u, v)
    lit = density - sample(tile, u + 0.02 * np.sign(sun[0] + 1e-3), v - 0.02)
    threshold = float(rng.uniform(0.0, 0.9))
    alpha = smoothstep(threshold, threshold + 1.1, density) * smoothstep(0.0, 0.3, e - 0.12)
    shade = np.clip(0.86 + 0.45 * lit, 0.6, 1.0)
    canvas.over(light.cloud * shade[..., None], 0.92 * alpha)


def reflect(light: Light, elevation: Array, depth: float = 0.78) -> Array:
    """Colour of still water that mirrors the sky at an elevation, darkened and bluer."""
    return gradient(light, elevation) * (rgb(0.80, 0.92, 1.0) * depth)


def shaded(albedo: Array, light: Light, amount: Array | float) -> Array:
    """Land lit by ambient light plus `amount` of the key light."""
    return albedo * mix(light.ambient, light.ambient + light.key, amount)


__all__ = ["LIGHTS", "Light", "gradient", "paint", "reflect", "shaded"]
