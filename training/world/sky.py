"""Sky: gradients, sun, moon with phases, stars, the milky way and lit clouds."""

from dataclasses import replace

import numpy as np

from training.world.canvas import Array, Frame, fractal, mix, rgb, smoothstep
from training.world.light import Light
from training.world.scene import Scene


def draw(frame: Frame, light: Light, scene: Scene, rng: np.random.Generator) -> None:
    """Fill the frame with the sky of the scene, down to a little below the horizon."""
    bottom = frame.row(light.horizon + 0.08)
    frame = replace(frame, y=frame.y[:bottom], rgb=frame.rgb[:bottom])
    x, e = frame.x[None, :], np.maximum(light.horizon - frame.y[:, None], 0)
    frame.rgb[:] = light.sky(x, e)
    if light.time == "night":
        _milky_way(frame, light, rng)
        _stars(frame, light, rng)
    frame.rgb += light.glow(x, e)
    if scene.disc == "moon":
        _moon(frame, light, rng)
    elif scene.disc == "sun":
        _sun(frame, light)
    if scene.sky == "cloudy":
        _clouds(frame, light, scene, rng)
    elif light.time != "night":
        _veil(frame, light, rng)


def _disc(frame: Frame, light: Light, radius: float) -> tuple[slice, slice, Array, Array]:
    """Rows and columns round the disc and its local coordinates in units of the radius."""
    x, y = light.x, light.horizon - light.elevation
    rows = slice(frame.row(y - 1.1 * radius), frame.row(y + 1.1 * radius))
    columns = slice(frame.column(x - 1.1 * radius), frame.column(x + 1.1 * radius))
    return rows, columns, (frame.x[None, columns] - x) / radius, (frame.y[rows, None] - y) / radius


def _sun(frame: Frame, light: Light) -> None:
    radius = light.palette.radius
    rows, columns, dx, dy = _disc(frame, light, radius)
    alpha = np.clip((1 - np.hypot(dx, dy)) * radius / frame.pixel + 0.5, 0, 1)
    block = frame.rgb[rows, columns]
    block += (light.palette.disc - block) * alpha[..., None]


def _moon(frame: Frame, light: Light, rng: np.random.Generator) -> None:
    """A sphere lit from the side: phase, maria and a dark limb."""
    phase, turn = float(rng.uniform(-1.1, 1.1)), float(rng.uniform(-0.6, 0.6))
    radius, shift = light.palette.radius, float(rng.uniform())
    rows, columns, dx, dy = _disc(frame, light, radius)
    r2 = dx * dx + dy * dy
    across = dx * np.cos(turn) + dy * np.sin(turn)
    z = np.sqrt(np.maximum(1 - r2, 0))
    lit = smoothstep(-0.06, 0.3, across * np.sin(phase) + z * np.cos(phase))
    footprint = frame.pixel / radius * 0.12
    maria = fractal(1.6, 5, dx * 0.12 + shift, dy * 0.12, footprint)
    craters = fractal(1.1, 6, dx * 0.3, dy * 0.3 + shift, footprint * 2.5)
    tone = 1 - 0.42 * smoothstep(0.0, 1.2, maria) + 0.05 * craters
    alpha = np.clip((1 - np.sqrt(r2)) * radius / frame.pixel + 0.5, 0, 1)
    block = frame.rgb[rows, columns]
    block *= (1 - alpha * (1 - 0.25 * (1 - lit)))[..., None]
    block += light.palette.disc * (alpha * (0.015 + lit * tone))[..., None]


def _stars(frame: Frame, light: Light, rng: np.random.Generator) -> None:
    """Stars of random brightness and tint as small Gaussian spots, as many as a dark night has."""
    count = 520
    x, e = rng.uniform(-1.7, 1.7, count), rng.uniform(0.02, 1.9, count)
    flux = 0.05 + 1.5 * rng.random(count) ** 12 + 0.30 * rng.random(count) ** 4
    tint = 1 + 0.22 * np.outer(rng.uniform(-1, 1, count), (1, 0.1, -1.0))
    away = np.hypot(x - light.x, e - light.elevation)
    flux *= np.clip(e / 0.25, 0.15, 1) * np.clip(away / 0.3 - 0.1, 0, 1)
    sigma = max(0.0036, 0.55 * frame.pixel)
    reach = int(np.ceil(2.6 * sigma / frame.pixel))
    first = np.stack([(light.horizon - e - frame.y[0]) / frame.pixel, (x - frame.x[0]) / frame.pixel], 1)
    kept = np.all((first > -reach) & (first < np.array(frame.rgb.shape[:2]) + reach), 1)
    centre = np.rint(first[kept]).astype(int)
    step = np.arange(-reach, reach + 1)
    rows, columns = centre[:, :1] + step, centre[:, 1:] + step
    away = (rows - first[kept, :1])[:, :, None] ** 2 + (columns - first[kept, 1:])[:, None, :] ** 2
    fall = np.exp(-away * (frame.pixel / sigma) ** 2 / 2)
    rows, columns = np.broadcast_arrays(rows[:, :, None], columns[:, None, :])
    inside = (rows >= 0) & (rows < len(frame.y)) & (columns >= 0) & (columns < len(frame.x))
    spots = (flux[kept, None] * tint[kept])[:, None, None, :] * fall[..., None]
    np.add.at(frame.rgb, (rows[inside], columns[inside]), spots[inside].astype(np.float32))


def _milky_way(frame: Frame, light: Light, rng: np.random.Generator) -> None:
    """A band of unresolved stars with dust lanes, brighter where no moon shines."""
    angle = float(rng.uniform(0.5, 1.1)) * float(rng.choice((-1, 1)))
    middle, seed = rng.uniform(-0.3, 0.3), rng.uniform()
    x, e = frame.x[None, :] - middle, light.horizon - frame.y[:, None] - 0.55
    across, along = x * np.cos(angle) - e * np.sin(angle), x * np.sin(angle) + e * np.cos(angle)
    footprint = frame.pixel * 0.4
    wisps = fractal(1.5, 1, across * 0.4 + seed, along * 0.22, footprint)
    dust = fractal(1.4, 2, across * 0.35, along * 0.3 + seed, footprint)
    band = np.exp(-(((across + 0.05 * wisps) / 0.26) ** 2)) * np.clip(0.62 + 0.42 * wisps, 0, 2)
    band *= 1 - 0.75 * np.exp(-(((across + 0.06 * dust) / 0.07) ** 2)) * smoothstep(-0.5, 0.8, dust)
    strength = 0.10 if abs(light.x) > 1 else 0.035
    frame.rgb += (strength * band * smoothstep(0, 0.4, e + 0.55))[..., None] * rgb(0.80, 0.85, 1.15)


def _veil(frame: Frame, light: Light, rng: np.random.Generator) -> None:
    """Faint cirrus, so that a clear sky is no bare gradient."""
    u0, v0, angle = rng.uniform(0, 1, 3)
    x, e = frame.x[None, :], np.maximum(light.horizon - frame.y[:, None], 0) + 0.3
    u, v = x / e * 0.10 + u0 + 0.15 * angle / e, 0.30 / e + v0
    streaks = fractal(1.7, 2, u, v, frame.pixel * 0.3 / e)
    alpha = 0.16 * smoothstep(0.3, 2.2, streaks) * smoothstep(0.3, 0.6, e)
    frame.over(mix(light.palette.lit, light.palette.glow, 0.4), alpha)


def _clouds(frame: Frame, light: Light, scene: Scene, rng: np.random.Generator) -> None:
    """A deck of cumulus: self-shadowed towards the sun, with lit edges, thinning into the haze."""
    u0, v0, cover, size = (float(v) for v in rng.uniform(0, 1, 4))
    size, number = 0.11 + 0.08 * size, int(rng.integers(1, 5))
    bottom = max(frame.row(light.horizon), 1)
    e = np.maximum(light.horizon - frame.y[:bottom, None], 0) + 0.13
    x = frame.x[None, :]
    u, v = x / e * size + u0, 0.30 / e + v0
    footprint = frame.pixel * size / e * 1.2
    here = fractal(1.6, number, u, v, footprint)
    du, dv = light.x / (light.elevation + 0.13) * size + u0 - u, 0.30 / (light.elevation + 0.13) + v0 - v
    length = np.sqrt(du * du + dv * dv) + 0.03
    there = fractal(1.6, number, u + 0.020 * du / length, v + 0.030 * dv / length, footprint)
    threshold = 0.75 - 0.9 * cover
    density = np.clip(here - threshold, 0, None)
    alpha = (1 - np.exp(-2.6 * density)) * smoothstep(0.13, 0.34, e)
    shadow = np.exp(-1.1 * np.clip(there - threshold, 0, None) - 0.35 * density)
    r2 = (x - light.x) ** 2 + (e - 0.13 - light.elevation) ** 2
    silver = np.exp(-r2 / 0.09) * np.exp(-2.2 * density)
    p = light.palette
    colour = mix(p.dark, p.lit, np.clip(1.25 * shadow - 0.08, 0, 1.15))
    colour = colour + silver[..., None] * p.disc * (0.55 if light.time == "night" else 0.16)
    haze = np.exp(-(e - 0.13) / 0.30)
    if scene.disc != "none":
        alpha = alpha * (1 - 0.8 * np.exp(-r2 / (1.2 * p.radius) ** 2))
    frame.over(mix(colour, light.sky(x, e * 0 + 0.02) * 1.05, 0.55 * haze), 0.96 * alpha)
