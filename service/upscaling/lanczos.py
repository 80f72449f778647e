"""Enlarging by Lanczos' kernel, in strips that are equal to Pillow's picture as a whole."""

from collections.abc import Iterator

import numpy as np
from PIL import Image

from service.upscaling.blocks import Pixels
from service.upscaling.steps import Step

STRIP = 128  # rows
REACH = 4  # rows of the low-resolution picture that Lanczos' kernel may touch beyond a strip


def strip(picture: Image.Image, factor: int, top: int, bottom: int) -> Pixels:
    """Rows ``top`` to ``bottom`` of the enlarged picture, from the rows that its kernel reaches.

    Across, then down, as for the whole picture: which comes first decides the rounding, and Pillow would choose anew.
    """
    first, last = max(top // factor - REACH, 0), min(-(-bottom // factor) + REACH, picture.height)
    width, kernel = picture.width * factor, Image.Resampling.LANCZOS
    wide = picture.crop((0, first, picture.width, last)).resize((width, last - first), kernel)
    return np.asarray(
        wide.resize((width, bottom - top), kernel, (0, top / factor - first, width, bottom / factor - first))
    )


def enlarge(lowres: Pixels, factor: int) -> Iterator[Step]:
    """The picture in strips."""
    picture, height = Image.fromarray(lowres), len(lowres) * factor
    starts = range(0, height, STRIP)
    for done, top in enumerate(starts, 1):
        yield Step(done, len(starts), strip(picture, factor, top, min(top + STRIP, height)))


def thumbnail(lowres: Pixels, side: int) -> Pixels:
    """The whole picture in side x side pixels, its aspect ratio given up."""
    return np.asarray(Image.fromarray(lowres).resize((side, side), Image.Resampling.BOX))
