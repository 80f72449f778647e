"""Photographic flaws of the wide pool of pictures, drawn from the seed so that curation has something to find."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from training.world.canvas import Array, View

WHOLE = View()
GOOD = 0.36  # share of the wide pool without a flaw
FLAWS = ("exposure", "colour", "noise", "blur", "tilt", "composition")


@dataclass(frozen=True)
class Quality:
    """Photographic flaws; the default is a flawless picture.

    exposure multiplies the light, colour the saturation; noise is a standard deviation in [0, 1] of the display
    range, blur a standard deviation in 1/256 of the picture, tilt an angle in degrees, view the part shown.
    """

    exposure: float = 1.0
    colour: float = 1.0
    noise: float = 0.0
    blur: float = 0.0
    tilt: float = 0.0
    view: View = WHOLE

    @property
    def good(self) -> bool:
        return self == Quality()

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Quality":
        """Flawless with probability GOOD, else one or two flaws that an eye sees at once."""
        quality = cls()
        if rng.random() < GOOD:
            return quality
        for name in rng.choice(FLAWS, size=1 + int(rng.random() < 0.3), replace=False):
            quality = quality._with(str(name), rng)
        return quality

    def _with(self, name: str, rng: np.random.Generator) -> "Quality":
        u, sign = float(rng.random()), float(rng.choice((-1.0, 1.0)))
        if name == "exposure":
            return replace(self, exposure=0.22 + 0.2 * u if sign < 0 else 2.4 + 1.6 * u)
        if name == "composition":
            across, down = (float(v) for v in rng.uniform(0.16, 0.38, 2))
            return replace(self, view=View(0.62 + 0.1 * u if sign < 0 else 1.5 + 0.3 * u, sign * across, -down))
        value = {"colour": 0.1 + 0.35 * u, "noise": 0.07 + 0.09 * u, "blur": 1.4 + 1.8 * u, "tilt": sign * (6 + 7 * u)}
        return Quality(**(vars(self) | {name: value[name]}))


def spoil(picture: NDArray[np.uint8], quality: Quality, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Tilt, blur and noise of a finished picture; the other flaws belong to the camera."""
    if quality.tilt:
        picture = _tilt(picture, quality.tilt)
    if quality.blur:
        sigma = quality.blur * len(picture) / 256
        picture = np.stack([ndimage.gaussian_filter(picture[..., c], sigma) for c in range(3)], -1)
    if quality.noise:
        grain = picture + 255 * quality.noise * rng.standard_normal(picture.shape, np.float32)
        picture = np.clip(grain + 0.5, 0, 255).astype(np.uint8)
    return picture


def _tilt(picture: NDArray[np.uint8], degrees: float) -> NDArray[np.uint8]:
    """Rotate about the centre, enlarged so that no corner is empty."""
    angle, centre = np.deg2rad(degrees), (len(picture) - 1) / 2
    zoom = abs(np.cos(angle)) + abs(np.sin(angle))
    turn: Array = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) / zoom
    offset = centre - turn @ (centre, centre)
    planes = [ndimage.affine_transform(picture[..., c], turn, offset, order=1, mode="nearest") for c in range(3)]
    return np.stack(planes, -1)
