"""Pixels to PNG, WebP and JPEG bytes that carry their recipe, and the recipe back out of the bytes."""

import io
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin, UnidentifiedImageError

from service.errors import InvalidRequest
from service.png import KEY as PNG_KEY
from service.png import png

Format = Literal["png", "webp", "jpeg"]

EXIF_IFD, USER_COMMENT = 0x8769, 0x9286  # Exif 2.32, 4.6.5
ASCII = b"ASCII\0\0\0"  # character code of a UserComment; the JSON in it escapes everything else
LONGEST: dict[Format, int] = {"png": 2**31 - 1, "webp": 16_383, "jpeg": 65_500}  # pixels a side
JPEG_LIMIT = 65_000  # bytes of metadata one APP1 segment can hold, with room for its headers


def encode(
    pixels: NDArray[np.uint8], recipe: Mapping[str, Any] | None, output_format: Format, quality: int = 100
) -> bytes:
    """[H, W, 3] to a file of the same bytes every time; ``quality`` 0-100 is for webp and jpeg."""
    image, file = Image.fromarray(pixels), io.BytesIO()
    if output_format == "png":
        text = PngImagePlugin.PngInfo()
        if recipe is not None:
            text.add_itxt(PNG_KEY, json.dumps(recipe, ensure_ascii=False))
        image.save(file, "PNG", pnginfo=text, compress_type=zlib.Z_HUFFMAN_ONLY)  # a sixth of the time, smaller
    elif output_format == "webp":
        image.save(file, "WEBP", quality=quality, exif=_exif(recipe))
    else:
        image.save(file, "JPEG", quality=quality, subsampling=0, exif=_exif(recipe))
    return file.getvalue()


def written(
    rows: Iterable[NDArray[np.uint8]],
    size: tuple[int, int],
    recipe: Mapping[str, Any],
    output_format: Format,
    quality: int = 100,
) -> Iterator[bytes]:
    """The file of strips of rows [n, width, 3], in pieces. Only PNG is written strip by strip."""
    if output_format == "png":
        return png(size, rows, recipe)
    return iter([encode(np.concatenate(list(rows)), recipe, output_format, quality)])


def preview(
    latent: NDArray[np.floating], factors: Sequence[Sequence[float]], size: tuple[int, int]
) -> NDArray[np.uint8]:
    """[C, h, w] through a linear map to RGB, enlarged to (width, height): [H, W, 3]. The map's last row is its bias."""
    colours = np.einsum("chw,cr->hwr", latent, np.array(factors[:-1])) + np.array(factors[-1])
    small = np.round(np.clip(colours / 2 + 0.5, 0, 1) * 255).astype(np.uint8)
    return np.asarray(Image.fromarray(small).resize(size, Image.Resampling.BICUBIC))


def check_size(size: tuple[int, int], output_format: Format) -> None:
    """Refuse, before any work, a size that the format does not have."""
    if max(size) > LONGEST[output_format]:
        message = f"{output_format} has at most {LONGEST[output_format]} pixels a side, not {max(size)}; take png"
        raise InvalidRequest(message, field="output_format")


def check_fits(recipe: Mapping[str, Any], output_format: Format) -> None:
    """Refuse, before any work, a recipe that the format's metadata cannot hold."""
    if output_format == "jpeg" and len(json.dumps(recipe)) > JPEG_LIMIT:
        raise InvalidRequest(
            f"the recipe does not fit into the {JPEG_LIMIT} bytes that JPEG metadata can hold; "
            "shorten the prompt or take png or webp",
            field="output_format",
        )


def recipe_of(data: bytes) -> dict[str, Any]:
    """The recipe a picture of ours carries; anything else is refused."""
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "WEBP", "JPEG")) as image:
            comment = image.getexif().get_ifd(EXIF_IFD).get(USER_COMMENT, b"")
            text = image.info.get(PNG_KEY) or comment.removeprefix(ASCII)
        recipe = json.loads(text)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, AttributeError, TypeError) as error:
        raise InvalidRequest("this is no picture with a recipe in it", field="image") from error
    if not isinstance(recipe, dict):
        raise InvalidRequest("this is no picture with a recipe in it", field="image")
    return recipe


def _exif(recipe: Mapping[str, Any] | None) -> Image.Exif:
    exif = Image.Exif()
    if recipe is not None:
        exif.get_ifd(EXIF_IFD)[USER_COMMENT] = ASCII + json.dumps(recipe).encode()
    return exif
