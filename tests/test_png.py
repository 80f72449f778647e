"""PNG in strips: what Pillow reads and what the standard asks for (W3C PNG 3rd edition, 5 and 11)."""

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from service.images import recipe_of
from service.png import png

RNG = np.random.default_rng(0)


def strips(pixels: np.ndarray, heights: list[int]) -> Iterator[np.ndarray]:
    return iter(np.split(pixels, np.cumsum(heights)))


def chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Kind and content of every chunk, their checksums compared."""
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    found, at = [], 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        kind, content = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        assert struct.unpack(">I", data[at + 8 + length : at + 12 + length]) == (zlib.crc32(kind + content),)
        found.append((kind, content))
        at += 12 + length
    assert at == len(data)
    return found


@pytest.mark.parametrize(
    ("size", "heights"), [((7, 20), [3, 1, 9]), ((1, 1), []), ((300, 2), [0, 1]), ((16_384, 3), [])]
)
def test_pillow_reads_the_pixels_and_the_recipe(size: tuple[int, int], heights: list[int]) -> None:
    pixels = RNG.integers(0, 256, (size[1], size[0], 3), np.uint8)
    recipe = {"prompt": "a café 🚤", "seed": 7}
    data = b"".join(png(size, strips(pixels, heights), recipe))
    with Image.open(io.BytesIO(data)) as image:
        assert (image.mode, image.size) == ("RGB", size)
        np.testing.assert_array_equal(np.asarray(image), pixels)
    assert recipe_of(data) == recipe


def test_the_chunks_are_those_of_the_standard() -> None:
    pixels = np.repeat(RNG.integers(0, 256, (64, 200, 3), np.uint8), 8, 0)
    data = b"".join(png((200, 512), strips(pixels, [100, 100]), {"seed": 1}))
    kinds = [kind for kind, _ in chunks(data)]
    assert kinds[:2] == [b"IHDR", b"iTXt"]
    assert kinds[-1] == b"IEND"
    assert set(kinds[2:-1]) == {b"IDAT"}
    assert chunks(data)[0][1] == struct.pack(">IIBBBBB", 200, 512, 8, 2, 0, 0, 0)
    assert chunks(data)[-1][1] == b""
    stream = zlib.decompressobj()
    rows = stream.decompress(b"".join(content for kind, content in chunks(data) if kind == b"IDAT"))
    assert stream.eof
    assert not stream.unused_data
    assert len(rows) == 512 * (1 + 3 * 200)


def test_how_the_rows_are_cut_changes_no_byte() -> None:
    pixels = np.repeat(RNG.integers(0, 256, (50, 333, 3), np.uint8), 4, 0)
    files = {
        b"".join(png((333, 200), strips(pixels, heights), None)) for heights in ([], [1] * 150, [7, 100], [0, 199])
    }
    assert len(set(map(hash, files))) == 1


def test_pieces_leave_before_all_rows_are_there() -> None:
    """Nothing is kept but the state of the compressor: random pixels leave as fast as they come."""
    sent = 0

    def rows() -> Iterator[np.ndarray]:
        for number in range(64):
            assert sent >= max(0, number - 8) * 64 * 300
            yield RNG.integers(0, 256, (64, 100, 3), np.uint8)

    for piece in png((100, 64 * 64), rows(), None):
        sent += len(piece)
    assert sent > 64 * 64 * 300


def test_rows_that_are_missing_are_an_error() -> None:
    with pytest.raises(ValueError, match="3 rows of 4"):
        list(png((2, 4), [np.zeros((3, 2, 3), np.uint8)], None))
