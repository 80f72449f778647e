"""The plain mode: strips that together are Pillow's picture, and base and window of every block as seen by it."""

import numpy as np
import pytest
from PIL import Image

from service.upscaling.blocks import padded, window
from service.upscaling.lanczos import STRIP, enlarge, strip, thumbnail

RNG = np.random.default_rng(0)


def picture(height: int, width: int) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, 3), np.uint8)


def whole(lowres: np.ndarray, factor: int) -> np.ndarray:
    height, width, _ = lowres.shape
    return np.asarray(Image.fromarray(lowres).resize((width * factor, height * factor), Image.Resampling.LANCZOS))


@pytest.mark.parametrize("factor", [4, 16])
@pytest.mark.parametrize("size", [(1, 1), (2, 70), (65, 3), (97, 31), (33, 64)])
def test_strips_are_the_whole_picture(size: tuple[int, int], factor: int) -> None:
    lowres = picture(*size)
    steps = list(enlarge(lowres, factor))
    np.testing.assert_array_equal(np.concatenate([step.rows for step in steps]), whole(lowres, factor))
    assert [step.done for step in steps] == list(range(1, len(steps) + 1))
    assert {step.total for step in steps} == {-(-size[0] * factor // STRIP)}


def test_a_strip_may_begin_anywhere() -> None:
    lowres = picture(29, 17)
    for top, bottom in ((0, 1), (3, 50), (61, 62), (100, 116)):
        found = strip(Image.fromarray(lowres), 4, top, bottom)
        np.testing.assert_array_equal(found, whole(lowres, 4)[top:bottom])


def test_windows_are_those_of_the_replicated_picture() -> None:
    lowres = picture(10, 13)
    framed = np.pad(padded(lowres, 4), ((4, 4), (4, 4), (0, 0)), "edge")
    assert framed.shape == (12 + 8, 16 + 8, 3)
    for row in range(3):
        for column in range(4):
            seen = framed[4 * row : 4 * row + 12, 4 * column : 4 * column + 12]
            found = window(padded(lowres, 4), (row, column), 4)
            np.testing.assert_allclose((found.transpose(1, 2, 0) + 1) * 127.5, seen, atol=1e-4)


def test_the_thumbnail_is_the_mean_of_its_cells() -> None:
    lowres = picture(24, 40)
    cells = lowres.reshape(8, 3, 8, 5, 3).mean((1, 3))
    np.testing.assert_allclose(thumbnail(lowres, 8), cells, atol=1)
