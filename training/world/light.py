"""The light of a scene: palettes of the times of day, the sun's place, haze."""

from dataclasses import dataclass

import numpy as np

from training.world.canvas import Array, mix, paint, rgb, unit
from training.world.scene import Scene

FOCAL = 2.2
LIFT = {"mountains": 0.34, "forest": 0.26, "meadow": 0.20, "snow": 0.20, "desert": 0.12, "sea": 0.0}  # above the land


@dataclass(frozen=True)
class Palette:
    """Colours of a sky from the zenith down, of direct light, fill light and clouds."""

    zenith: Array
    middle: Array
    horizon: Array
    glow: Array  # the horizon under the sun
    key: Array
    fill: Array
    lit: Array  # clouds towards the sun and away from it
    dark: Array
    disc: Array
    elevation: tuple[float, float]
    radius: float


PALETTES = {
    "dawn": (
        Palette(paint("5b82c4"), paint("cfaed0"), paint("ffc9b0"), paint("ffe9c0", 1.15), rgb(2.0, 1.42, 1.12),
                rgb(0.46, 0.46, 0.66), paint("ffd9c9"), paint("a58fb5"), rgb(9.0, 7.0, 4.8), (0.10, 0.30), 0.065),
        Palette(paint("7fa6c9"), paint("e9cfc4"), paint("fddcb0"), paint("fff2cf", 1.2), rgb(2.1, 1.6, 1.15),
                rgb(0.50, 0.50, 0.62), paint("fff0dc"), paint("b9a5ad"), rgb(9.0, 7.5, 5.0), (0.10, 0.30), 0.065),
    ),
    "day": (
        Palette(paint("1c5cb0"), paint("4d97e0"), paint("b9def5"), paint("e6f4fc"), rgb(2.25, 2.1, 1.8),
                rgb(0.42, 0.55, 0.75), rgb(1.15, 1.14, 1.1), paint("9fb0c8"), rgb(12.0, 11.5, 10), (0.5, 0.8), 0.058),
        Palette(paint("2f74ba"), paint("6fb1e2"), paint("d6e9ee"), paint("f4f6ee"), rgb(2.3, 2.05, 1.65),
                rgb(0.46, 0.55, 0.68), rgb(1.12, 1.1, 1.05), paint("a9b4c4"), rgb(12.0, 11.5, 10.0), (0.5, 0.8), 0.058),
    ),
    "sunset": (
        Palette(paint("2a3272"), paint("b8527c"), paint("ff8a3c"), paint("ffc85a", 1.5), rgb(2.9, 1.25, 0.5),
                rgb(0.36, 0.28, 0.44), paint("ff9a62", 1.15), paint("6a3a62"), rgb(10, 5.5, 1.8), (0.04, 0.22), 0.095),
        Palette(paint("20264f"), paint("8f3a52"), paint("f0642c"), paint("ffa238", 1.5), rgb(2.9, 1.05, 0.38),
                rgb(0.33, 0.23, 0.32), paint("f9763f", 1.1), paint("4a2440"), rgb(10.0, 4.8, 1.3), (0.03, 0.2), 0.1),
        Palette(paint("3d4a8f"), paint("d77f9c"), paint("ffb070"), paint("ffdf90", 1.4), rgb(2.6, 1.35, 0.75),
                rgb(0.42, 0.34, 0.50), paint("ffb592", 1.1), paint("80547e"), rgb(10.0, 6.5, 2.6), (0.04, 0.22), 0.09),
    ),
    "night": (
        Palette(paint("050a1e"), paint("0e2149"), paint("2b4a80"), paint("4a6fa5"), rgb(0.36, 0.44, 0.62),
                rgb(0.050, 0.085, 0.18), paint("5a75a8"), paint("0f1a36"), rgb(1.7, 1.7, 1.55), (0.42, 0.78), 0.085),
        Palette(paint("030a18"), paint("0a2a40"), paint("235a6e"), paint("43808c"), rgb(0.33, 0.46, 0.55),
                rgb(0.045, 0.095, 0.16), paint("5a8398"), paint("0b2030"), rgb(1.7, 1.7, 1.55), (0.42, 0.78), 0.085),
    ),
}  # fmt: skip


def _free(scene: Scene, x: float) -> float:
    """How far x lies from the nearest object, up to what lets a disc be seen beside it."""
    return min(0.15, *(abs(x - s.x) - 1.05 * s.height for s in scene.solids), 0.15)


@dataclass(frozen=True)
class Light:
    """A palette and where the sun or moon stands: x in the picture, elevation above the horizon, direction."""

    palette: Palette
    time: str
    horizon: float
    x: float
    elevation: float
    toward: Array
    haze: Array

    @property
    def side(self) -> float:
        return 1.0 if self.toward[0] > 0 else -1.0

    @classmethod
    def draw(cls, scene: Scene, horizon: float, rng: np.random.Generator) -> "Light":
        options = PALETTES[scene.time]
        palette = options[int(rng.integers(len(options)))]
        elevation = float(rng.uniform(*palette.elevation))
        if scene.time != "day":
            elevation += LIFT[scene.scene] * (0.5 if scene.time == "night" else 1.0)
        elevation = min(elevation, 0.86 + horizon)
        places = rng.uniform(-0.72, 0.72, 16)
        x = float(max(places[:1] if not scene.solids else places, key=lambda place: _free(scene, place)))
        if scene.disc == "none":
            x = float(2.2 * np.sign(x))
        toward = unit(1.0 if x > 0 else -1.0, 0.42 + 0.9 * elevation, -0.15 if scene.time == "day" else 0.2)
        haze = mix(palette.horizon, palette.middle, 0.3 if scene.time == "day" else 0.25)
        return cls(palette, scene.time, horizon, x, elevation, toward, haze)

    def sky(self, x: Array, e: Array) -> Array:
        """Colour of the clear sky at x and elevation e in picture units, (..., 3)."""
        p = self.palette
        e = np.clip(e, 0, 1.6)
        low, high = np.exp(-(e / 0.24)), np.exp(-((e / 0.62) ** 2))
        near = np.exp(-(((x - self.x) / 0.75) ** 2))
        horizon = mix(p.horizon, p.glow, near)
        return mix(mix(p.zenith, p.middle, high), horizon, low * (0.8 + 0.2 * near))

    def glow(self, x: Array, e: Array) -> Array:
        """Light scattered round the disc, (..., 3)."""
        r2 = (x - self.x) ** 2 + (e - self.elevation) ** 2
        r = np.sqrt(r2)
        wide = {"dawn": 0.36, "day": 0.20, "sunset": 0.42, "night": 0.10}[self.time]
        amount = wide * np.exp(-r / 0.30) + 2.2 * wide * np.exp(-r2 / 0.012)
        return np.asarray(amount[..., None] * self.palette.disc / self.palette.disc.max())

    def shade(self, albedo: Array, facing: Array, up: Array) -> Array:
        """Lambert's law: direct light by `facing`, fill light from above by `up` (both (...) in [0, 1])."""
        p = self.palette
        return np.asarray(albedo * (p.key * facing[..., None] + p.fill * (0.55 + 0.45 * up)[..., None]))

    def fog(self, colour: Array, x: Array, amount: Array) -> Array:
        """Atmospheric perspective: towards the haze, warmer under the sun."""
        near = np.exp(-(((x - self.x) / 0.7) ** 2))
        return mix(colour, mix(self.haze, self.palette.glow, 0.75 * near), amount)
