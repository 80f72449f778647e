"""Water: waves that mirror the sky, the path of sun or moon, foam on a beach, a still lake."""

import numpy as np

from training.world.canvas import Array, Frame, fractal, mix, paint, rgb, smoothstep, wander
from training.world.land import Surface
from training.world.light import FOCAL, Light
from training.world.scene import Scene

Random = np.random.Generator
DEEP = {"dawn": "3f6478", "day": "0f5a86", "sunset": "3a2a4a", "night": "040b18"}


def sea(frame: Frame, light: Light, scene: Scene, rng: Random) -> None:
    """Open water, perhaps an island, and a beach where objects stand."""
    o, rough, shallow = rng.uniform(0, 1, 2), float(rng.uniform(0.35, 1.0)), bool(scene.solids)
    if scene.detail == "island":
        _island(frame, light, rng)
    top = frame.row(light.horizon - frame.pixel / 2)
    below = np.maximum(frame.y[top:, None] - light.horizon, 0.25 * frame.pixel)
    z = np.minimum(FOCAL / below, 400)
    x = frame.x[None, :] * z / FOCAL
    colour = _water(light, frame, x, z, below, o, rough)
    haze = 0.85 * np.exp(-below / 0.035)
    colour = mix(colour, light.sky(frame.x[None, :], 0 * below + 0.01), haze + 0 * x)
    frame.over(colour, np.clip((frame.y[top:, None] - light.horizon) / frame.pixel + 0.5, 0, 1) + 0 * x, top)
    if shallow:
        _beach(frame, light, rng)


def _slopes(x: Array, z: Array, o: Array, pixel: float, rough: float) -> tuple[Array, Array, Array]:
    """Wave slopes along x and z, and the slope that is too fine for the pixels."""
    f = pixel * z / FOCAL
    long = np.maximum(f, pixel * z * z / FOCAL**2 * 0.25)
    steep: Array = np.zeros(1, np.float32)
    across, lost = steep, steep
    for scale, gain in ((0.05, 0.10), (0.21, 0.075)):
        u, v, foot = x * scale + o[0], z * scale * 1.7 + o[1], long * scale
        e = 0.02
        here = fractal(1.5, 1, u, v, foot)
        steep = steep + gain * (fractal(1.5, 1, u, v + e, foot) - here)
        across = across + gain * (fractal(1.5, 1, u + e, v, foot) - here)
        lost = lost + gain * 0.5 * smoothstep(0.0, 0.3, foot)
    return rough * across, rough * steep, rough * lost


def _water(light: Light, frame: Frame, x: Array, z: Array, below: Array, o: Array, rough: float) -> Array:
    """Fresnel mix of the mirrored sky with the deep colour, plus glitter."""
    across, steep, lost = _slopes(x, z, o, frame.pixel, rough)
    grazing = below / FOCAL
    tilt = np.clip(grazing + 1.0 * steep + 0.6 * lost, 0.01, 2)
    e = FOCAL * np.clip(2 * tilt - grazing, 0.01, 1)
    mirrored = frame.x[None, :] + 1.6 * FOCAL * across
    sky = light.sky(mirrored, e)
    fresnel = 0.03 + 0.97 * np.clip(1 - tilt * 1.1, 0, 1) ** 4.5
    facing = np.clip(0.55 + 2.2 * steep, 0.1, 1.3)
    deep = paint(DEEP[light.time]) * facing[..., None]
    colour = mix(deep, sky, fresnel)
    if abs(light.x) > 1:
        return colour
    spread_x = 0.030 + 0.22 * lost + 0.02 * rough
    r2 = ((mirrored - light.x) / (spread_x + 0.12 * below)) ** 2 + ((e - light.elevation) / (0.13 + 1.6 * lost)) ** 2
    glint = np.exp(-r2) * (0.25 + 0.75 * fresnel)
    path = np.exp(-(((frame.x[None, :] - light.x) / (0.10 + 0.30 * below)) ** 2))
    gain = {"dawn": 0.42, "day": 0.22, "sunset": 0.55, "night": 1.1}[light.time]
    return colour + (gain * glint + 0.035 * path)[..., None] * light.palette.disc


def _island(frame: Frame, light: Light, rng: Random) -> None:
    """Rocky islands on the horizon, behind the haze."""
    for fog in (0.62, 0.40):
        middle, width = float(rng.uniform(-0.8, 0.8)), float(rng.uniform(0.25, 0.5))
        hump = np.exp(-(((frame.x - middle) / width) ** 4))
        rise = hump * (0.10 + 0.09 * wander(rng, frame.x, 3.0, 9, 0.55)) - 0.02
        top = frame.row(light.horizon - 0.3)
        bottom = frame.row(light.horizon + 2 * frame.pixel)
        up = light.horizon - frame.y[top:bottom, None]
        u0 = float(rng.uniform())
        faces = fractal(1.5, 3, frame.x[None, :] * 0.9 + u0 + 0.3 * up, up * 0.5, frame.pixel)
        lit = np.clip(0.35 + 0.35 * faces, 0.02, 1)
        colour = light.shade(mix(paint("4c4a3c"), paint("5d6b3c"), np.clip(faces, 0, 1)), lit, 0.5 + 0 * lit)
        alpha = np.clip((rise[None, :] - up) / frame.pixel + 0.5, 0, 1)
        frame.over(light.fog(colour, frame.x[None, :], fog + 0.3 * np.exp(-up / 0.03) + 0 * lit), alpha, top)


def _beach(frame: Frame, light: Light, rng: Random) -> None:
    """Sand under thin water, lines of foam, wet sand that mirrors the sky."""
    o = rng.uniform(0, 1, 3)
    shore = light.horizon + 0.30 + 0.035 * wander(rng, frame.x, 0.6, 3, 0.5)
    top = frame.row(float(shore.min()) - 0.12)
    y = frame.y[top:, None]
    z = FOCAL / np.maximum(y - light.horizon, 0.05)
    x, f = frame.x[None, :] * z / FOCAL, 1.2 * frame.pixel * z / FOCAL
    depth = y - shore[None, :] + 0.012 * fractal(1.7, 2, x * 0.12 + o[0], z * 0.12, f * 0.12)
    grain = fractal(1.2, 3, x * 0.4 + o[1], z * 0.4, f * 0.6)
    wet = 1 - smoothstep(0.0, 0.16, depth)
    dry = mix(paint("d8b98a"), paint("efd9ae"), np.clip(0.5 + 0.25 * grain, 0, 1))
    sand = dry * (0.85 * (1 - 0.45 * wet))[..., None]
    ones = np.ones_like(depth)
    lit = light.shade(sand, np.clip(light.toward[1] * (1 + 0.12 * grain), 0, 1), ones)
    lit = mix(lit, light.sky(frame.x[None, :] + 0 * depth, 0.35 * ones), 0.30 * wet**2)
    frame.over(lit, smoothstep(-0.05, 0.015, depth), top)
    lace = np.clip(0.6 + 0.6 * fractal(1.2, 4, x * 0.5, z * 0.5 + o[2], f * 0.7), 0, 1)
    for offset, width, gain in ((0.004, 0.010, 0.95), (-0.055, 0.012, 0.7), (-0.10, 0.008, 0.4)):
        foam = gain * np.exp(-(((depth - offset) / width) ** 2)) * lace
        frame.over(light.shade(rgb(0.75, 0.78, 0.8), 0.75 * ones, ones), np.clip(foam, 0, 1), top)


def lake(frame: Frame, light: Light, s: Surface, rng: Random) -> None:
    """Still water wherever the land lies below y = 0: the picture above the shore upside down."""
    o = rng.uniform(0, 1, 2)
    row = frame.row(light.horizon)
    below = np.maximum(frame.y[row:, None] - light.horizon, 0.5 * frame.pixel)
    z = FOCAL / below
    x = frame.x[None, :] * z / FOCAL
    wet = (s.y[row - s.top :] < 0).astype(np.float32)
    _, steep, _ = _slopes(x, z, o, frame.pixel, 0.16)
    source = light.horizon - below + 1.5 * steep
    position = (source - frame.y[0]) / frame.pixel
    i = np.clip(np.floor(position), 0, row - 1).astype(np.int32)
    t = np.clip(position - i, 0, 1).astype(np.float32)
    column = np.arange(len(frame.x))[None, :]
    image = mix(frame.rgb[i, column], frame.rgb[np.minimum(i + 1, row), column], t)
    fresnel = 0.25 + 0.6 * np.exp(-below / 0.45)
    colour = mix(paint(DEEP[light.time]) * 0.7 + 0 * image, image, fresnel + 0 * x)
    frame.over(colour, wet, row)
