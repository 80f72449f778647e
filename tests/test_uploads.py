"""Pictures from outside: what is enlarged, and what is refused with a sentence that says why."""

import io
import struct
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from service.errors import InvalidRequest
from service.uploads import opened

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (6, 9, 3), np.uint8)
MOST = 10_000


def saved(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(width: int, height: int) -> bytes:
    """A PNG of zeros that would take 3 * width * height bytes."""
    head = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return head + chunk(b"IDAT", zlib.compress(bytes(2**22))) + chunk(b"IEND", b"")


RGB = Image.fromarray(PIXELS)
OPAQUE = RGB.convert("RGBA")


@pytest.mark.parametrize(
    "data",
    [
        saved(RGB),
        saved(RGB, "WEBP", lossless=True),
        saved(OPAQUE),
        saved(RGB, icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()),
    ],
    ids=["png", "webp", "opaque alpha", "profile"],
)
def test_lossless_files_give_their_pixels(data: bytes) -> None:
    np.testing.assert_array_equal(opened(data, MOST), PIXELS)


@pytest.mark.parametrize("mode", ["L", "P", "1", "LA"])
def test_other_modes_are_what_pillow_shows(mode: str) -> None:
    image = RGB.quantize(17) if mode == "P" else RGB.convert(mode)
    np.testing.assert_array_equal(opened(saved(image), MOST), np.asarray(image.convert("RGB")))


def test_sixteen_bits_lose_their_lower_half() -> None:
    grey = RNG.integers(0, 2**16, (6, 9), np.uint16)
    found = opened(saved(Image.fromarray(grey)), MOST)
    np.testing.assert_array_equal(found, np.repeat((grey // 256).astype(np.uint8)[..., None], 3, 2))
    colour = RNG.integers(0, 2**16, (6, 9, 3), np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in colour)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 9, 6, 16, 2, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    np.testing.assert_array_equal(opened(data, MOST), (colour // 256).astype(np.uint8))


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_pictures_are_turned_as_their_exif_says(form: str) -> None:
    """Orientation 6: the first row of the file is the right side (Exif 2.32, 4.6.4)."""
    exif = Image.Exif()
    exif[0x0112] = 6
    smooth = RGB.resize((90, 60), Image.Resampling.BICUBIC)
    found = opened(saved(smooth, form, exif=exif), MOST)
    assert found.shape == (90, 60, 3)
    expected = np.rot90(opened(saved(smooth, form), MOST), -1)
    np.testing.assert_array_equal(found, expected)


def test_scans_within_reason_are_read() -> None:
    assert opened(scanned(100), MOST).shape == PIXELS.shape


def test_one_pixel_of_height_is_a_picture() -> None:
    assert opened(saved(RGB.resize((10_000, 1))), MOST).shape == (1, 10_000, 3)


TRANSPARENT = RGB.convert("RGBA")
TRANSPARENT.putpixel((3, 3), (1, 2, 3, 254))
KEYED = saved(RGB, transparency=tuple(map(int, PIXELS[0, 0])))
FRAMES = [RGB, RGB.rotate(180)]
HTML = b"<!doctype html><script>alert(1)</script>"
SVG = b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>"


def scanned(times: int) -> bytes:
    """A progressive JPEG whose last scan comes so many times."""
    data = saved(RGB, "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * times + data[-2:]


def huge_webp() -> bytes:
    """A head that promises 16,383 x 16,383 pixels."""
    vp8l = b"\x2f" + struct.pack("<I", 16_382 | 16_382 << 14) + bytes(11)
    return b"RIFF" + struct.pack("<I", 12 + len(vp8l)) + b"WEBPVP8L" + struct.pack("<I", len(vp8l)) + vp8l


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (scanned(201), "scans"),
        (huge_webp(), "allowed here"),
        (TRANSPARENT, "transparent"),
        (KEYED, "transparent"),
        (saved(FRAMES[0], "PNG", save_all=True, append_images=FRAMES[1:]), "animated"),
        (saved(FRAMES[0], "WEBP", save_all=True, append_images=FRAMES[1:]), "animated"),
        (saved(RGB.convert("CMYK"), "JPEG"), "CMYK"),
        (saved(RGB.resize((200, 51))), "200x51"),
        (bomb(30_000, 30_000), "allowed here"),
        (bomb(10_000, 9_000), "allowed here|10000x9000"),
        (bomb(0, 5), "cannot be read"),
        (bomb(90, 90)[:60], "damaged|cannot be read"),
        (saved(RGB)[:-30], "damaged"),
        (saved(RGB.resize((90, 90)), "JPEG")[:-500], "damaged"),
        (saved(RGB.resize((90, 90)), "WEBP")[:-50], "damaged|cannot be read"),
        (saved(RGB, "GIF"), "cannot be read"),
        (saved(RGB, "TIFF"), "cannot be read"),
        (saved(RGB, "BMP"), "cannot be read"),
        (HTML, "cannot be read"),
        (SVG, "cannot be read"),
        (b"\x89PNG\r\n\x1a\n" + HTML, "cannot be read"),
        (b"\xff\xd8\xff" + SVG, "cannot be read|damaged"),
        (b"", "cannot be read"),
        (bytes(1000), "cannot be read"),
    ],
)
def test_what_is_not_one_opaque_picture_is_refused(data: bytes | Image.Image, why: str) -> None:
    with pytest.raises(InvalidRequest, match=why) as error:
        opened(data if isinstance(data, bytes) else saved(data), MOST)
    assert error.value.field == "image"
    assert len(error.value.message) < 400


def resident(field: str) -> int:
    """KiB, by proc(5)."""
    return int(next(line for line in Path("/proc/self/status").read_text().splitlines() if field in line).split()[1])


@pytest.mark.parametrize("data", [bomb(9_000, 9_000), bomb(30_000, 30_000), huge_webp()])
def test_a_bomb_takes_no_memory(data: bytes) -> None:
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    with pytest.raises(InvalidRequest):
        opened(data, 2**20)
    assert resident("VmHWM") - before < 30_000


def test_damage_anywhere_is_refused_or_harmless() -> None:
    """A byte changed at every place of three files: pixels of the same size, or a refusal."""
    for form in ("PNG", "JPEG", "WEBP"):
        data = saved(RGB, form)
        for at in range(len(data)):
            hurt = data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]
            with suppress(InvalidRequest):
                assert opened(hurt, MOST).size <= 3 * MOST
