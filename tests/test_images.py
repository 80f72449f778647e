"""Files carry their recipe, decode to the pixels they were made of, and are the same bytes every time."""

import io
import json
import struct
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from service.errors import InvalidRequest
from service.images import JPEG_LIMIT, check_fits, encode, recipe_of

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
SMOOTH = np.repeat(np.linspace(0, 255, 40).astype(np.uint8)[None, :, None], 3, axis=2).repeat(24, axis=0)
RECIPE = {"prompt": 'a "red" boat\n\u2028 café 🚤', "seed": 2**53 - 1, "sigmas": [14.614641, 0.1, 0.0], "preset": None}


@pytest.mark.parametrize("name", ["png", "webp", "jpeg"])
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    recipe=st.dictionaries(
        st.text(st.characters(codec="utf-8", exclude_characters="\0")),
        st.none()
        | st.integers()
        | st.text(st.characters(codec="utf-8", exclude_characters="\0"))
        | st.lists(st.floats(allow_nan=False)),
    )
)
def test_the_recipe_comes_back_from_the_bytes(name: str, recipe: dict[str, object]) -> None:
    assert recipe_of(encode(SMOOTH[:4, :4], recipe, name)) == recipe


@pytest.mark.parametrize("name", ["png", "webp", "jpeg"])
def test_bytes_are_the_same_every_time_and_name_their_format(name: str) -> None:
    data = encode(PIXELS, RECIPE, name, 80)
    assert data == encode(PIXELS.copy(), dict(RECIPE), name, 80)
    with Image.open(io.BytesIO(data)) as image:
        assert (image.format, image.size, image.mode) == (name.upper(), (40, 24), "RGB")


def test_png_is_lossless_and_its_chunk_is_what_the_standard_says() -> None:
    data = encode(PIXELS, RECIPE, "png")
    with Image.open(io.BytesIO(data)) as image:
        assert np.array_equal(np.asarray(image), PIXELS)
    chunks, at = {}, 8
    while at < len(data):  # PNG, third edition, 5.3 and 11.3.3.3
        (size,), kind = struct.unpack(">I", data[at : at + 4]), data[at + 4 : at + 8]
        chunks[kind] = data[at + 8 : at + 8 + size]
        assert struct.unpack(">I", data[at + 8 + size : at + 12 + size])[0] == zlib.crc32(kind + chunks[kind])
        at += 12 + size
    assert chunks[b"iTXt"] == b"darkroom\0\0\0\0\0" + json.dumps(RECIPE, ensure_ascii=False).encode()


@pytest.mark.parametrize("name", ["webp", "jpeg"])
def test_quality_is_honoured(name: str) -> None:
    poor, good = (encode(PIXELS, RECIPE, name, quality) for quality in (10, 100))
    assert len(poor) < len(good)
    with Image.open(io.BytesIO(encode(SMOOTH, RECIPE, name, 100))) as image:
        assert np.abs(np.asarray(image).astype(int) - SMOOTH).max() <= 4


def test_a_recipe_too_long_for_jpeg_is_refused_before_the_work_and_fits_elsewhere() -> None:
    recipe = {"prompt": "x" * JPEG_LIMIT}
    with pytest.raises(InvalidRequest) as refused:
        check_fits(recipe, "jpeg")
    assert refused.value.field == "output_format"
    for name in ("png", "webp"):
        check_fits(recipe, name)
        assert recipe_of(encode(PIXELS, recipe, name)) == recipe
    longest = {"prompt": "x" * (JPEG_LIMIT - len(json.dumps({"prompt": ""})))}
    check_fits(longest, "jpeg")
    assert recipe_of(encode(PIXELS, longest, "jpeg")) == longest


def foreign(name: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, name)
    return file.getvalue()


@pytest.mark.parametrize(
    "data",
    [b"", b"\0" * 64, foreign("PNG"), foreign("JPEG"), foreign("GIF"), encode(PIXELS, RECIPE, "png")[:60]],
    ids=["empty", "zeros", "png without", "jpeg without", "gif", "truncated"],
)
def test_pictures_without_a_recipe_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidRequest) as refused:
        recipe_of(data)
    assert refused.value.field == "image"


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=40)
@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused_and_never_crash(tail: bytes) -> None:
    for head in (b"", encode(PIXELS[:2, :2], RECIPE, "png")[:70], encode(PIXELS[:2, :2], RECIPE, "jpeg")[:40]):
        with pytest.raises(InvalidRequest):
            recipe_of(head + tail)
