"""PNG written as its rows are made: memory does not grow with the height. (Pillow needs the whole picture first.)"""

import json
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

KEY = "darkroom"  # keyword of the iTXt chunk that holds the recipe
SIGNATURE = b"\x89PNG\r\n\x1a\n"
RGB, UP = 2, 2  # colour type; filter: what a pixel has more than the one above it, which suits enlarged pictures
IDAT = 1 << 16  # bytes of a chunk, wherever the strips end: their heights change no byte of the file


def png(size: tuple[int, int], rows: Iterable[NDArray[np.uint8]], recipe: Mapping[str, Any] | None) -> Iterator[bytes]:
    """A file of (width, height) in pieces, the first with the first of the strips of rows [n, width, 3]."""
    width, height = size
    head = SIGNATURE + _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, RGB, 0, 0, 0))
    if recipe is not None:
        text = json.dumps(recipe, ensure_ascii=False).encode()
        head += _chunk(b"iTXt", KEY.encode() + b"\0\0\0\0\0" + text)
    deflate, above, seen, waiting = zlib.compressobj(), np.zeros((1, 3 * width), np.uint8), 0, bytearray()
    for strip in rows:
        if head:
            yield head
            head = b""
        seen += len(strip)
        flat = np.concatenate([above, strip.reshape(len(strip), 3 * width)])
        above = flat[-1:]
        waiting += deflate.compress(np.insert(flat[1:] - flat[:-1], 0, UP, axis=1).tobytes())
        while len(waiting) >= IDAT:
            yield _chunk(b"IDAT", bytes(waiting[:IDAT]))
            del waiting[:IDAT]
    if seen != height:
        raise ValueError(f"{seen} rows of {height}")
    yield _chunk(b"IDAT", bytes(waiting) + deflate.flush()) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
