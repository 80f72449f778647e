"""Colours of the low-resolution picture for the enlarged one: a network may shift what it only had to sharpen.

The low band of an a trous wavelet (Starck and Murtagh 2002) is replaced, as StableSR does (Wang et al. 2023):
x - low(x) + low(base) = x + low(base - x). Unlike AdaIN, which takes its moments from the whole picture, a pixel
depends on no more than REACH pixels around it, so strips have no seams and nothing waits for the last row.
"""

from typing import NamedTuple

import numpy as np

from service.upscaling.blocks import Array

STEPS = (1, 2, 4, 8, 16)  # of the kernel (1, 2, 1) / 4: together nearly a Gaussian of deviation 13 pixels
REACH = sum(STEPS)


class Carry(NamedTuple):
    """Rows that still wait for those below: of x, and of base - x with what lies above them."""

    x: Array
    change: Array


def corrected(carry: Carry | None, x: Array, base: Array, *, last: bool) -> tuple[Array, Carry]:
    """The next strips [n, width, 3] of x and base -> rows that are done, and what goes on to the next strip."""
    change = base - x
    if carry is None:
        carry = Carry(x[:0], np.repeat(change[:1], REACH, 0))
    x, change = np.concatenate([carry.x, x]), np.concatenate([carry.change, change])
    if last:
        change = np.concatenate([change, np.repeat(change[-1:], REACH, 0)])
    done = max(len(change) - 2 * REACH, 0)
    rows = x[:done] + low(change) if done else x[:0]
    return rows, Carry(x[done:].copy(), change[done:].copy())


def low(x: Array) -> Array:
    """The low band of [n + 2 REACH, width, 3] -> [n, width, 3]; columns are replicated at the edges."""
    for step in STEPS:
        x = (x[: -2 * step] + x[2 * step :]) / 4 + x[step:-step] / 2
    x = np.pad(x, ((0, 0), (REACH, REACH), (0, 0)), "edge")
    for step in STEPS:
        x = (x[:, : -2 * step] + x[:, 2 * step :]) / 4 + x[:, step:-step] / 2
    return x
