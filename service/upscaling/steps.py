"""What every way of enlarging yields."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from service.upscaling.blocks import Array, Pixels, Place


@dataclass(frozen=True)
class Step:
    """Finished work: the next rows of the picture (perhaps none), and for previews the blocks that were sampled."""

    done: int  # blocks or strips so far
    total: int
    rows: Pixels  # [n, width, 3]
    blocks: Mapping[Place, Array] = field(default_factory=dict)  # [3, block, block] in about [-1, 1]
