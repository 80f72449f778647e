"""The colour fix: one linear filter over the whole picture, whatever the strips it comes in."""

from itertools import pairwise

import numpy as np
import pytest
from scipy import ndimage

from service.upscaling.blocks import Array
from service.upscaling.colours import REACH, STEPS, corrected

RNG = np.random.default_rng(0)


def streamed(x: Array, base: Array, cuts: list[int]) -> Array:
    carry, done = None, []
    bounds = [0, *cuts, len(x)]
    for start, stop in pairwise(bounds):
        rows, carry = corrected(carry, x[start:stop], base[start:stop], last=stop == len(x))
        assert rows.flags.owndata or not len(rows)
        assert len(carry.x) <= REACH
        done.append(rows)
    assert not len(carry.x)
    return np.concatenate(done)


def kernel() -> Array:
    taps = np.ones(1)
    for step in STEPS:
        spread = np.zeros(2 * step + 1)
        spread[[0, step, -1]] = 0.25, 0.5, 0.25
        taps = np.convolve(taps, spread)
    return taps


@pytest.mark.parametrize(
    ("height", "width", "cuts"),
    [(200, 40, [16, 32, 130, 131]), (128, 5, [64]), (20, 33, [16]), (1, 1, []), (95, 300, list(range(10, 95, 10)))],
)
def test_strips_equal_a_filter_of_the_whole(height: int, width: int, cuts: list[int]) -> None:
    x, base = RNG.uniform(-1, 1, (2, height, width, 3)).astype(np.float32)
    found = streamed(x, base, cuts)
    np.testing.assert_array_equal(found, streamed(x, base, []))
    low = (base - x).astype(np.float64)
    for axis in (0, 1):
        low = ndimage.correlate1d(low, kernel(), axis, mode="nearest")
    np.testing.assert_allclose(found, x + low, atol=1e-6)


def test_a_cast_goes_and_detail_stays() -> None:
    base = RNG.uniform(-0.5, 0.5, (96, 96, 3)).astype(np.float32)
    cast = np.array([0.2, -0.1, 0.05], np.float32)
    np.testing.assert_allclose(streamed(base + cast, base, [32, 64]), base, atol=1e-6)
    checks = np.where(np.indices((96, 96)).sum(0) % 2, 0.1, -0.1)[..., None].astype(np.float32)
    inside = slice(REACH, -REACH)
    np.testing.assert_allclose(
        streamed(base + checks, base, [32])[inside, inside], (base + checks)[inside, inside], atol=1e-6
    )
