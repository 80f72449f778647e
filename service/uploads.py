"""A picture from outside, which may be anything: decided by what it is, not by what it says it is."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from service.errors import InvalidRequest

FORMATS = ("PNG", "JPEG", "WEBP")
SCAN, MOST_SCANS = b"\xff\xda", 200  # of a JPEG; coded data cannot hold these bytes (ITU T.81, B.1.1.5)


def opened(data: bytes, max_pixels: float) -> NDArray[np.uint8]:
    """The pixels [h, w, 3] of a file, upright; InvalidRequest for everything that is not one opaque picture.

    Nothing is decoded before the size in its head is known to be at most ``max_pixels``.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _refused(f"has more than the {max_pixels:.0f} pixels allowed here") from None
    except Exception:  # whatever a decoder makes of hostile bytes
        raise _refused(f"cannot be read as one of {', '.join(FORMATS)}") from None
    with image:
        if image.width * image.height > max_pixels:
            size = f"{image.width}x{image.height}"
            raise _refused(f"has {size} pixels, more than the {max_pixels:.0f} that can be enlarged here")
        if getattr(image, "is_animated", False) and image.format != "MPO":  # MPO: a photo and, behind it, small ones
            raise _refused("is animated; send one frame")
        if image.format in ("JPEG", "MPO") and data.count(SCAN) > MOST_SCANS:  # each passes over the whole picture
            raise _refused("comes in too many scans")
        if image.mode == "CMYK":
            raise _refused("is in CMYK, whose colours depend on a printer; convert it to sRGB first")
        try:
            return _upright(image)
        except InvalidRequest:
            raise
        except Exception as error:
            raise _refused(f"is damaged: {str(error)[:200]}") from None


def _upright(image: Image.Image) -> NDArray[np.uint8]:
    """8 bits of red, green and blue, turned as its Exif says."""
    image.load()
    if image.mode.startswith("I"):  # grey of 16 bits, which Pillow's own conversion would clip
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() != (255, 255):
            raise _refused("is transparent in places; put it on a background first")
    return np.asarray(image.convert("RGB"))


def _refused(why: str) -> InvalidRequest:
    return InvalidRequest(f"the picture {why}", field="image")
