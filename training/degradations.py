"""Low-resolution pictures for the upsampler: what becomes of a picture on its way through cameras and files.

The order of Real-ESRGAN (Wang et al. 2021, section 3): blur, resize, noise, JPEG, and perhaps once more. It is milder,
since what the upsampler will see was generated, not photographed.
"""

import io
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from service.upscaling import lanczos
from training.upsampler import Sizes

Pixels = NDArray[np.uint8]  # [h, w, 3]

CLEAN, AGAIN, EDGE = 0.4, 0.25, 0.15  # shares: only resized; degraded twice; each side an edge of the picture
AREA = 0.25  # share whose small pixels are means over their areas, as of a camera and of the renderer
BLUR, NOISE, JPEG = 0.6, 0.4, 0.4
KERNELS = (
    Image.Resampling.BOX, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS,
)  # fmt: skip


class Crop(NamedTuple):
    """What one training sample is made of."""

    sharp: Pixels  # whole blocks
    base: Pixels  # the low-resolution picture by Lanczos' kernel, like sharp
    lowres: Pixels  # with a margin of one block
    thumbnail: Pixels


def crop(
    picture: Pixels, thumbnail: Pixels, sizes: Sizes, blocks: int, rng: np.random.Generator, small: Pixels | None = None
) -> Crop:
    """A random square of ``blocks`` x ``blocks`` of a picture, mirrored or not, and its degraded version.

    ``small`` is the whole picture's, where there is one already.
    """
    margin, few = sizes.block // sizes.factor, (blocks + 2) * sizes.block // sizes.factor
    side = few * sizes.factor
    corner = rng.integers(0, np.array(picture.shape[:2]) // sizes.factor - few, endpoint=True)
    (top, left), (up, along) = corner * sizes.factor, corner
    part = picture[top : top + side, left : left + side]
    lowres = None if small is None else small[up : up + few, along : along + few]
    if rng.random() < 0.5:
        part, thumbnail = part[:, ::-1], thumbnail[:, ::-1]
        lowres = None if lowres is None else lowres[:, ::-1]
    if lowres is None:
        whole = Image.fromarray(part)
        lowres = np.asarray(whole.reduce(sizes.factor) if rng.random() < AREA else degrade(whole, few, rng))
    lowres = np.array(lowres)
    _replicate(lowres, margin, rng)
    base = lanczos.strip(Image.fromarray(lowres), sizes.factor, sizes.block, side - sizes.block)
    inside = slice(sizes.block, -sizes.block)
    return Crop(part[inside, inside].copy(), base[:, inside], lowres, thumbnail)


def degrade(picture: Image.Image, side: int, rng: np.random.Generator) -> Image.Image:
    """A square picture at ``side`` pixels, with what may happen to it on the way there."""
    if rng.random() > CLEAN:
        picture = _stage(picture, side, rng)
        if rng.random() < AGAIN:
            picture = _stage(picture, side, rng)
    return picture.resize((side, side), _kernel(rng))


def _stage(picture: Image.Image, side: int, rng: np.random.Generator) -> Image.Image:
    scale = picture.width / side
    if rng.random() < BLUR:
        across, down = rng.uniform(0.1, 0.5, 2) * scale
        picture = picture.filter(ImageFilter.GaussianBlur((float(across), float(down))))
    between = round(side * scale ** rng.random())
    picture = picture.resize((between, between), _kernel(rng))
    if rng.random() < NOISE:
        pixels = np.asarray(picture)
        grain = rng.standard_normal((*pixels.shape[:2], int(rng.choice((1, 3)))), np.float32)
        noisy = pixels + np.float32(rng.uniform(0.5, 6)) * grain
        picture = Image.fromarray(np.clip(np.round(noisy), 0, 255).astype(np.uint8))
    if rng.random() < JPEG:
        file = io.BytesIO()
        picture.save(file, "jpeg", quality=int(rng.integers(50, 96)))
        picture = Image.open(file).convert("RGB")
    return picture


def _kernel(rng: np.random.Generator) -> Image.Resampling:
    return KERNELS[rng.integers(len(KERNELS))]


def _replicate(lowres: Pixels, margin: int, rng: np.random.Generator) -> None:
    """Some sides are an edge of the picture: what lies beyond them is replicated, as it will be in service."""
    for view in (lowres, lowres[::-1], lowres.swapaxes(0, 1), lowres.swapaxes(0, 1)[::-1]):
        if rng.random() < EDGE:
            view[:margin] = view[margin]
