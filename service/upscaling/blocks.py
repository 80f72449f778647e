"""A picture as a grid of blocks: their order, what is kept for whom, what a block sees of the picture."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]
Pixels = NDArray[np.uint8]  # [height, width, 3]
Place = tuple[int, int]  # row and column of a block

NEIGHBOURS = ((0, -1), (-1, 0), (-1, -1))  # left, top, top left: the blocks that a block attends to, in this order


@dataclass(frozen=True)
class Grid:
    """Rows and columns of blocks; ``progress`` counts in each row the blocks that are done, from the left."""

    rows: int
    columns: int

    @classmethod
    def over(cls, height: int, width: int, side: int) -> "Grid":
        """The blocks of ``side`` that cover a picture."""
        return cls(-(-height // side), -(-width // side))

    @property
    def count(self) -> int:
        return self.rows * self.columns

    def ready(self, progress: Sequence[int], in_flight: int) -> list[Place]:
        """The next anti-diagonal: blocks whose neighbours are done, in the first ``in_flight`` unfinished rows."""
        unfinished = [row for row in range(self.rows) if progress[row] < self.columns][:in_flight]
        return [(row, progress[row]) for row in unfinished if row == 0 or progress[row - 1] > progress[row]]

    def neighbours(self, place: Place) -> list[Place | None]:
        """The places that a block attends to; None where the picture ends."""
        places = [(place[0] + down, place[1] + right) for down, right in NEIGHBOURS]
        return [place if min(place) >= 0 else None for place in places]

    def needed(self, place: Place, progress: Sequence[int]) -> bool:
        """Whether a block that attends to this one is still to come."""
        row, after = place[0], min(place[1] + 1, self.columns - 1)
        below = row + 1 < self.rows and progress[row + 1] <= after
        return below or progress[row] == place[1] + 1 <= after


def padded(lowres: Pixels, side: int) -> Pixels:
    """Replicated at the right and the bottom to whole blocks of ``side``."""
    height, width, _ = lowres.shape
    return np.pad(lowres, ((0, -height % side), (0, -width % side), (0, 0)), "edge")


def window(lowres: Pixels, place: Place, side: int) -> Array:
    """The 3 x 3 low-resolution blocks of ``side`` around a block, replicated at the edges: [3, 3 side, 3 side]."""
    rows, columns = (
        np.clip(np.arange((at - 1) * side, (at + 2) * side), 0, length - 1)
        for at, length in zip(place, lowres.shape[:2], strict=True)
    )
    return scaled(lowres[rows[:, None], columns])


def scaled(pixels: Pixels) -> Array:
    """[h, w, 3] in 0..255 -> [3, h, w] in [-1, 1], float32."""
    return np.ascontiguousarray(pixels.transpose(2, 0, 1), np.float32) / np.float32(127.5) - np.float32(1)


def noise(seed: int, place: Place, block: int) -> Array:
    """Unit normals [3, block, block] of one block, whatever the order in which blocks are made."""
    return np.random.default_rng((seed, *place)).standard_normal((3, block, block), np.float32)
