"""Enlarging by diffusion, block by block (Inf-DiT, Yang et al. 2024): memory grows with the width alone.

Attention looks only to the left and above, so every block can be sampled to its end once those neighbours are done,
reading their keys and values at the same evaluation of the network. Rows of blocks advance along anti-diagonals, at
most ``in_flight`` of them at once; a row of pixels leaves when it is whole.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from PIL import Image

from service.upscaling import blocks, lanczos
from service.upscaling.blocks import Array, Grid, Pixels, Place
from service.upscaling.colours import Carry, corrected
from service.upscaling.steps import Step


class Layout(NamedTuple):
    """Facts of the network."""

    block: int  # pixels along a block of the enlarged picture
    factor: int
    thumbnail: int  # pixels along the picture that every block sees

    @property
    def side(self) -> int:
        """Low-resolution pixels along a block."""
        return self.block // self.factor


class View(NamedTuple):
    """What the network sees around a block."""

    base: Array  # [3, block, block]: the block by Lanczos' kernel
    lowres: Array  # [3, w, w]: the 3 x 3 low-resolution blocks around it
    thumbnail: Array  # [3, t, t]
    caches: tuple[Array | None, ...]  # keys and values of the left, top and top left block; None beyond the edge


Network = Callable[[Array, float, Sequence[View]], tuple[Array, Array]]  # x [n, ...], sigma -> x0, keys and values
Evaluate = Callable[[Array, float], Array]  # x [n, 3, block, block], sigma -> x0
Solve = Callable[[Evaluate, Array, Array], Array]  # base and unit noise -> x, by a deterministic sampler


@dataclass
class Cursor:
    """Where a picture stands between two steps: numbers alone, from which any process makes the same rest."""

    progress: list[int]  # blocks done in every row
    caches: dict[Place, list[Array]] = field(default_factory=dict)  # keys and values at every evaluation
    strips: dict[int, Array] = field(default_factory=dict)  # rows of blocks begun: [block, columns * block, 3]
    carry: Carry | None = None


class Enlargement:
    """One picture [h, w, 3] being enlarged; iterate for its steps. Between two of them, ``cursor`` is all it is.

    At its peak the cursor has keys and values of columns + 2 in_flight blocks, and pixels of in_flight + 1 rows.
    """

    def __init__(
        self,
        lowres: Pixels,
        layout: Layout,
        network: Network,
        solve: Solve,
        *,
        seed: int,
        in_flight: int,
        cursor: Cursor | None = None,
    ) -> None:
        self._layout, self._network, self._solve, self._seed, self._in_flight = layout, network, solve, seed, in_flight
        height, width, _ = lowres.shape
        self._height, self._width = height * layout.factor, width * layout.factor
        self._lowres = blocks.padded(lowres, layout.side)
        self._thumbnail = blocks.scaled(lanczos.thumbnail(lowres, layout.thumbnail))
        self._picture = Image.fromarray(self._lowres)
        self._grid = Grid.over(height, width, layout.side)
        self._bases: dict[int, Pixels] = {}
        self.cursor = cursor or Cursor([0] * self._grid.rows)

    def __iter__(self) -> Iterator[Step]:
        while places := self._grid.ready(self.cursor.progress, self._in_flight):
            sampled = dict(zip(places, self._sample(places), strict=True))
            rows = [self._finished(row) for row in self._put(sampled)]
            nothing = np.empty((0, self._width, 3), np.uint8)
            yield Step(sum(self.cursor.progress), self._grid.count, np.concatenate([nothing, *rows]), sampled)

    def _sample(self, places: Sequence[Place]) -> Array:
        """Blocks that do not see each other, from noise to their end."""
        views = [self._view(place) for place in places]
        new: dict[Place, list[Array]] = {place: [] for place in places}

        def evaluate(x: Array, sigma: float) -> Array:
            index = len(new[places[0]])
            caches = [self._neighbours(place, index) for place in places]
            seen = [view._replace(caches=cache) for view, cache in zip(views, caches, strict=True)]
            x0, made = self._network(x, sigma, seen)
            for place, cache in zip(places, made, strict=True):
                new[place].append(cache.copy())  # a view would keep all of ``made``
            return x0

        noise = np.stack([blocks.noise(self._seed, place, self._layout.block) for place in places])
        sampled = self._solve(evaluate, np.stack([view.base for view in views]), noise)
        self.cursor.caches |= new
        return sampled

    def _view(self, place: Place) -> View:
        left, right = (column * self._layout.block for column in (place[1], place[1] + 1))
        base = blocks.scaled(self._base(place[0])[:, left:right])
        return View(base, blocks.window(self._lowres, place, self._layout.side), self._thumbnail, ())

    def _base(self, row: int) -> Pixels:
        """A row of blocks by Lanczos' kernel."""
        if row not in self._bases:
            top = row * self._layout.block
            self._bases[row] = lanczos.strip(self._picture, self._layout.factor, top, top + self._layout.block)
        return self._bases[row]

    def _neighbours(self, place: Place, index: int) -> tuple[Array | None, ...]:
        places = self._grid.neighbours(place)
        return tuple(None if other is None else self.cursor.caches[other][index] for other in places)

    def _put(self, sampled: dict[Place, Array]) -> list[int]:
        """Blocks into their rows, what nobody needs any more away; the rows that are whole now."""
        cursor, block = self.cursor, self._layout.block
        for (row, column), pixels in sampled.items():
            width = self._grid.columns * block
            strip = cursor.strips.setdefault(row, np.empty((block, width, 3), np.float32))
            strip[:, column * block : (column + 1) * block] = pixels.transpose(1, 2, 0)
            cursor.progress[row] += 1
        kept = {place for place in cursor.caches if self._grid.needed(place, cursor.progress)}
        cursor.caches = {place: cursor.caches[place] for place in kept}
        return [row for row, column in sampled if column == self._grid.columns - 1]

    def _finished(self, row: int) -> Pixels:
        """The rows of pixels that a row of blocks completes, as they are in the file."""
        height = min(self._layout.block, self._height - row * self._layout.block)
        x = self.cursor.strips.pop(row)[:height, : self._width]
        base = self._base(row)[:height, : self._width] / np.float32(127.5) - np.float32(1)
        del self._bases[row]
        rows, self.cursor.carry = corrected(self.cursor.carry, x, base, last=row == self._grid.rows - 1)
        return np.round(np.clip(rows / 2 + 0.5, 0, 1) * 255).astype(np.uint8)
