"""Mountains, deserts, meadows and snow: height fields and what covers them."""

from dataclasses import replace

import numpy as np

from training.world.canvas import Array, Frame, fractal, mix, octaves, paint, rgb, scatter, smoothstep, unit
from training.world.forest import frosted
from training.world.land import Height, Surface, cast
from training.world.light import Light
from training.world.scene import Scene
from training.world.water import lake as fill_lake

Random = np.random.Generator


def _level(open_ground: bool, z: Array, start: float, end: float) -> Array:
    """0 on the level ground that objects stand on, 1 where the hills begin."""
    return smoothstep(start, end, z) if open_ground else smoothstep(0.25 * start, 0.5 * end, z)


def _grazing(light: Light, slope: float) -> Light:
    """The same light at most `slope` above the ground, which shows relief."""
    return replace(light, toward=unit(light.toward[0], min(slope, float(light.toward[1])), light.toward[2]))


def _grain(s: Surface, frequency: float, exponent: float, number: int, offset: float) -> Array:
    """Texture of the ground in world coordinates."""
    return fractal(exponent, number, s.x * frequency + offset, s.z * frequency, s.footprint * frequency * 2)


def _finish(frame: Frame, light: Light, s: Surface, colour: Array, reach: float) -> None:
    """Fog by distance, land over sky, antialiased silhouettes."""
    amount = 1 - np.exp(-((s.z / reach) ** 1.25))
    colour = light.fog(colour, frame.x[None, :], np.clip(amount, 0, 0.97))
    rows = frame.rgb[s.top :]
    rows[:] = np.where(s.land[..., None], colour, rows)
    s.antialias(rows)


def mountains(frame: Frame, light: Light, scene: Scene, rng: Random) -> None:
    """Eroded ridges with snow above the tree line; a lake or alpine grass before them."""
    o, swell, lift = rng.uniform(0, 1, 2), float(rng.uniform(0.85, 1.15)), float(rng.uniform(0, 1))
    lake = scene.detail == "lake"

    def mass(x: Array, z: Array) -> Array:
        return 0.35 + 1.3 * smoothstep(-1.1, 1.3, fractal(3.0, 4, x * 0.011 + o[1], z * 0.011 + o[0], 0.02))

    def height(x: Array, z: Array, f: Array) -> Array:
        f = f * np.maximum(1, 5 / z)
        total: Array = np.zeros(1, np.float32)
        weight: Array = np.ones(1, np.float32)
        for k, n in enumerate(octaves(x * 0.0085 + o[0], z * 0.0085 + o[1], f * 0.0085, 12)):
            ridge = np.sqrt(n * n + (0.18 * 2**k * f) ** 2)  # as sharp as the steps in depth can follow
            signal = np.clip(1 - 0.60 * ridge, 0, 1) ** 2 * weight
            weight = np.clip(2.2 * signal, 0, 1)
            total = total + signal * np.float32(0.47**k)
        rise = _level(True, z, 8, 30) * (1 + 0.6 * smoothstep(30, 70, z))
        shore = (0.25 if lake else 0.0) * smoothstep(2, 3, z) * (1 - smoothstep(10, 18, z))
        foot = 0.012 * total if scene.solids else 0.10 * total * smoothstep(2, 9, z)
        return swell * rise * mass(x, z) * 8.8 * np.tanh(np.clip(total - 0.30, 0, None) / 1.5) + foot - shore

    s = cast(frame, _grazing(light, 0.62), height, 80)
    rough = fractal(1.5, 3, s.x * 0.10 + 0.06 * s.y + lift, s.z * 0.10 - 0.14 * s.y, s.footprint * 0.2)
    snow = smoothstep(0.42, 0.62, s.up + 0.10 * rough) * smoothstep(1.6, 2.6, s.y + 0.4 * rough)
    rock = mix(paint("4f4d54"), paint("857a72"), np.clip(0.5 + 0.4 * rough, 0, 1))
    grass = mix(paint("4b5c2d"), paint("74803f"), np.clip(0.5 + 0.25 * _grain(s, 0.12, 1.3, 1, lift), 0, 1))
    green = smoothstep(0.55, 0.85, s.up + 0.06 * rough) * (1 - smoothstep(0.6, 1.8, s.y + 0.3 * rough))
    albedo = mix(mix(rock, grass, green), paint("cdd3dd"), snow)
    _finish(frame, light, s, light.shade(albedo, s.facing, s.up), 62)
    if lake:
        fill_lake(frame, light, s, rng)


def desert(frame: Frame, light: Light, scene: Scene, rng: Random) -> None:
    """Dunes: a long windward slope, a sharp crest and a slip face in shadow; ripples in the sand."""
    o, wind = rng.uniform(0, 1, 4), light.side

    def dune(x: Array, z: Array, f: Array, k: int, length: float) -> Array:
        warp = fractal(3.0, 1 + k, x * 0.022 / length + o[k], z * 0.022 / length + o[k + 1], f * 0.02)
        size = 0.62 + 0.38 * fractal(3.0, 3, x * 0.02 / length + o[k], z * 0.02 / length, f * 0.02)
        p = ((-x * wind * 0.080 - z * 0.055) / length + 0.20 * warp + o[k + 2]) % 1.0
        windward, slip, blend = smoothstep(0, 1.25, p / 0.7) / 0.896, (1 - p) / 0.3, 0.02 + 1.3 * f / length
        crest = np.minimum(windward, slip) - np.maximum(blend - np.abs(windward - slip), 0) ** 2 / (4 * blend)
        return np.asarray(crest * np.clip(size, 0.1, 1.2))

    def height(x: Array, z: Array, f: Array) -> Array:
        rise = _level(bool(scene.solids), z, 5.5, 15)
        tall = np.minimum(0.45 + 0.11 * z, 3.2)
        return rise * (tall * dune(x, z, f, 0, 1.0) + 0.10 * dune(x, z, f, 1, 0.35)) - 0.35 * rise

    s = cast(frame, _grazing(light, 0.42), height, 60)
    drift = fractal(1.6, 2, s.x * 0.16 + o[0], s.z * 0.16, s.footprint * 0.32)
    bend = s.z * 5.5 + 1.6 * s.x * wind + 1.1 * drift
    ripple = np.sin(bend * 2.4) * np.clip(1 - s.footprint * 22, 0, 1) * smoothstep(0.05, 0.4, s.facing)
    sand = mix(paint("d9a869"), paint("f0c98e"), np.clip(0.5 + 0.18 * drift, 0, 1))
    lit = np.clip(1.15 * s.facing * (1 + 0.14 * ripple), 0, 1)
    _finish(frame, light, s, light.shade(sand * 0.66, lit, s.up), 46)


def _hills(scene: Scene, o: Array, smooth: float, rough: float) -> Height:
    def height(x: Array, z: Array, f: Array) -> Array:
        rise = _level(bool(scene.solids), z, 5.5, 14)
        big = fractal(smooth, 1, x * 0.020 + o[0], z * 0.020 + o[1], f * 0.02)
        small = fractal(2.0, 2, x * 0.06 + o[2], z * 0.06, f * 0.06)
        swell = 0.9 * np.minimum(0.25 + 0.075 * z, 2.2)
        return rise * (swell * big + rough * small + 0.03 * np.minimum(z, 30)) - 0.2 * rise

    return height


def meadow(frame: Frame, light: Light, scene: Scene, rng: Random) -> None:
    """Rolling hills, grass with blades nearby, flowers."""
    o = rng.uniform(0, 1, 4)
    s = cast(frame, light, _hills(scene, o, 2.6, 0.04), 55)
    patches = _grain(s, 0.045, 1.7, 3, float(o[3]))
    blades = fractal(1.15, 4, s.x * 1.3, s.z * 0.35 + s.y * 1.3, s.footprint * 1.6)
    fine = np.exp(-s.z / 7)
    albedo = mix(paint("3f6b1c"), paint("86a838"), np.clip(0.45 + 0.34 * patches + 0.12 * blades * fine, 0, 1))
    lit = np.clip(s.facing * (1 + 0.16 * blades * fine), 0, 1)
    colour = light.shade(albedo, lit, s.up)
    if scene.detail == "flowers":
        colour = _flowers(light, s, colour, rng)
    _finish(frame, light, s, colour, 60)


def _flowers(light: Light, s: Surface, colour: Array, rng: Random) -> Array:
    """One flower in most cells of the ground, drawn as a disc with a bright heart; fades to a tint far away."""
    petals = np.stack([paint("fbf3ee"), paint("f7cf2e"), paint("e8436a"), paint("a678e0"), paint("ff8a3a")])
    u0 = rng.uniform(0, 50)
    first, second = rng.permutation(5)[:2]
    field = fractal(1.8, 2, s.x * 0.07 + u0, s.z * 0.07, s.footprint * 0.07)
    for cell, radius in ((0.15, 0.020), (0.21, 0.028)):
        u, v = s.x / cell + u0, s.z / cell * 0.6
        iu, iv = np.floor(u), np.floor(v)
        r = [scatter(iu, iv, salt) for salt in (1, 2, 3)]
        away = np.hypot((u - iu - 0.3 - 0.4 * r[0]) * cell, (v - iv - 0.3 - 0.4 * r[1]) * cell / 0.6 * 0.55)
        size = radius * (0.7 + 0.5 * r[2])
        alpha = np.clip((size - away) / np.maximum(s.footprint, 1e-4) + 0.5, 0, 1) * (r[2] + 0.3 * field > 0.55)
        alpha *= np.clip(1.6 - s.footprint / size, 0.0, 1)
        kind = np.where((r[0] * 7) % 1 < 0.7, first, second).astype(int)
        tint = mix(petals[kind], paint("ffd84a"), np.clip(1.2 - 4 * away / size, 0, 1))
        colour = mix(colour, light.shade(tint * 0.8, 0.35 + 0.65 * s.facing, s.up), alpha)
    return colour


def snow(frame: Frame, light: Light, scene: Scene, rng: Random) -> None:
    """Drifts of snow with blue shadows and glitter; frosted firs."""
    o = rng.uniform(0, 1, 4)
    s = cast(frame, _grazing(light, 0.5), _hills(scene, o, 3.0, 0.03), 55)
    wind = fractal(1.7, 4, s.x * 0.09 + o[3], s.z * 0.25, s.footprint * 0.3)
    glitter = np.clip(fractal(0.6, 5, s.x * 2.5, s.z * 1.2, s.footprint * 2.5) - 2.2, 0, 2) * s.facing
    lit = np.clip(s.facing * 1.1 * (1 + 0.06 * wind), 0, 1)
    colour = light.shade(rgb(0.46, 0.48, 0.51), lit, s.up) + (0.8 * glitter)[..., None] * light.palette.key
    _finish(frame, light, s, colour, 60)
    if scene.detail == "firs":
        frosted(frame, light, rng)
