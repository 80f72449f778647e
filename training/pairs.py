"""What a person would label: scenes at their best beside the same scenes with flaws."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from training import data, judge
from training.world import Quality, Scene, draw, render
from training.world.scene import generator


def spoiled(scene: Scene) -> Scene:
    """The scene with flaws: its own, or drawn ones if it has none."""
    rng = generator(scene.seed, "flaws")
    while scene.quality.good:
        scene = replace(scene, quality=Quality.draw(rng))
    return scene


def render_pair(seed: int, size: int) -> NDArray[np.uint8]:
    """The better picture and the worse one, (2, size, size, 3)."""
    scene = spoiled(draw(seed))
    return np.stack([render(scene, size), render(scene, size, scene.quality)])


def render_pairs(seeds: Sequence[int], size: int, workers: int) -> NDArray[np.uint8]:
    """(n, 2, size, size, 3), rendered by several processes; 0 workers are one for each core."""
    with get_context("spawn").Pool(workers or None) as pool:
        pairs = pool.imap(partial(render_pair, size=size), seeds, chunksize=8)
        return np.stack(list(tqdm(pairs, "pairs", len(seeds), mininterval=10)))


def kept(config: Any, name: str, seeds: Sequence[int]) -> NDArray[np.uint8]:
    """The pairs of these seeds, rendered once and kept in runs/pairs-<name>.npy."""
    file = Path(config.paths.runs / f"pairs-{name}.npy")
    if not file.exists():
        data.save_atomically(file, render_pairs(seeds, config.world.size, config.world.workers))
    return np.asarray(np.load(file, mmap_mode="r"))


def moved(pictures: Tensor, rng: np.random.Generator) -> Tensor:
    """(n, 3, h, w) mirrored or not, and shifted by a few pixels: neither changes how good a picture is."""
    pictures = pictures.flip(3) if rng.random() < 0.5 else pictures
    dy, dx = (int(v) for v in rng.integers(-4, 5, 2))
    return torch.roll(nn.functional.pad(pictures, (4, 4, 4, 4), mode="replicate"), (dy, dx), (2, 3))[..., 4:-4, 4:-4]


def pooled(maps: Tensor) -> Tensor:
    """Mean and maximum of every channel, (n, c, h, w) -> (n, 2 c)."""
    return torch.cat([maps.mean((2, 3)), maps.amax((2, 3))], 1)


def width(network: judge.Judge) -> int:
    """How many numbers ``pooled`` makes of the network's maps."""
    return int(next(iter(network.heads.parameters())).shape[1])
