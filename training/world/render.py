"""Picture of a scene: sky, land or studio, objects, and the finish of a photograph."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from training.world import forest, sky, solids, studio, terrain, water
from training.world.canvas import Array, Frame, luminance, mix, rgb, smoothstep, unit
from training.world.light import Light
from training.world.quality import Quality, spoil
from training.world.scene import Scene, generator
from training.world.shapes import Placed

BEST = Quality()
STRIP = 256 * 256  # pixels painted at a time
TERRAINS: dict[str, Callable[[Frame, Light, Scene, np.random.Generator], None]] = {
    "mountains": terrain.mountains, "sea": water.sea, "desert": terrain.desert, "forest": forest.forest,
    "meadow": terrain.meadow, "snow": terrain.snow,
}  # fmt: skip


def render(scene: Scene, size: int = 256, quality: Quality = BEST) -> NDArray[np.uint8]:
    """Render a scene to (size, size, 3) uint8: at its best, or with flaws such as scene.quality.

    The same bytes for the same scene. It is painted in vertical strips, so that memory stays bounded.
    """
    picture = np.empty((size, size, 3), np.uint8)
    width = max(STRIP // size, 16)
    for first in range(0, size, width):
        last = min(first + width, size)
        frame = Frame.strip(size, first, last, quality.view)
        _paint(frame, scene)
        picture[:, first:last] = _develop(frame, quality)
    return spoil(picture, quality, generator(scene.seed, "noise"))


def _paint(frame: Frame, scene: Scene) -> None:
    rng = generator(scene.seed, "pixels")
    if scene.scene == "studio":
        horizon, lamp = studio.room(frame, scene, rng)
        placed = [Placed.stand(s, horizon) for s in scene.solids]
        solids.stand(frame, horizon, placed, lamp, studio.MIRROR[scene.floor])
        return
    horizon = float(rng.uniform(-0.18, -0.06) if scene.solids else rng.uniform(0.0, 0.22))
    if scene.scene == "mountains" and not scene.solids:
        horizon += 0.16
    light = Light.draw(scene, horizon, rng)
    sky.draw(frame, light, scene, rng)
    TERRAINS[scene.scene](frame, light, scene, rng)
    if scene.solids:
        placed = [Placed.stand(s, horizon) for s in scene.solids]
        solids.stand(frame, horizon, placed, _daylight(light, scene), 0.0)


GROUND = {
    "mountains": rgb(0.16, 0.17, 0.08), "sea": rgb(0.55, 0.45, 0.28), "desert": rgb(0.62, 0.42, 0.20),
    "forest": rgb(0.10, 0.12, 0.04), "meadow": rgb(0.14, 0.24, 0.05), "snow": rgb(0.55, 0.60, 0.68),
}  # fmt: skip


def _daylight(light: Light, scene: Scene) -> solids.Lamp:
    """Light on objects outdoors: the sun's colour, tempered and from the camera's side, so that colours stay true."""
    p, night = light.palette, light.time == "night"
    key = mix(p.key / p.key.max(), rgb(1, 1, 1), 0.6) * (0.74 if night else 1.45)
    fill = mix(p.fill / p.fill.max(), rgb(1, 1, 1), 0.45) * (0.2 if night else 0.48)
    ground = GROUND[scene.scene] * (key + fill) * 0.45
    toward = unit(0.8 * light.side, 0.62 + 0.7 * light.elevation, -0.55)

    def around(d: Array) -> Array:
        ahead = np.where(d[..., 2] > 0, 1.0, -1.0)
        x = 2.2 * d[..., 0] / (np.abs(d[..., 2]) + 0.35)
        e = 1.25 * np.maximum(d[..., 1], 0)
        above = light.sky(x, e) * (1.0 + 0.15 * ahead)[..., None] * (1.3 if night else 1.0)
        far = mix(ground * 1.1, light.haze, 0.45)
        land = mix(ground * 1.15, far, np.exp(np.minimum(d[..., 1], 0) / 0.12))
        return mix(above, land, smoothstep(0.10, 0.04, d[..., 1]))

    return solids.Lamp(toward, key, fill, ground, around)


def _develop(frame: Frame, quality: Quality) -> NDArray[np.uint8]:
    """Exposure, vignette, shoulder, grading, display gamma."""
    view = quality.view
    x, y = (frame.x[None, :] - view.dx) / view.scale, (frame.y[:, None] - view.dy) / view.scale
    vignette = 1 - 0.22 * ((x * x + y * y) / 2) ** 1.5
    light = np.maximum(frame.rgb, 0) * (quality.exposure * vignette)[..., None]
    over = np.maximum(light - 0.55, 0)
    light = np.minimum(light, 0.55) + 0.45 * (1 - np.exp(-over / 0.45))
    grey = luminance(light)[..., None]
    light = np.maximum(grey + (light - grey) * (1.06 * quality.colour), 0)
    display = np.clip(light, 0, 1) ** (1 / 2.2)
    curve = display + 0.10 * display * (1 - display) * (2 * display - 1)
    return (np.clip(curve, 0, 1) * 255 + 0.5).astype(np.uint8)
