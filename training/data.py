"""The rendered data set: chunks of pictures on disk; scenes and captions follow from the seeds."""

import itertools
import os
from multiprocessing import get_context
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.world import draw, render


def pictures(config: Any) -> Path:
    return Path(config.paths.runs / "pictures")


def chunk_path(config: Any, index: int) -> Path:
    return pictures(config) / f"{index:04d}.npy"


def finished(config: Any) -> list[int]:
    """Indices of the chunks that are rendered completely."""
    return sorted(int(p.stem) for p in pictures(config).glob("[0-9]*.npy"))


def seeds(config: Any, chunk: int) -> range:
    """Seeds of the pictures of one chunk."""
    start = config.world.seed + chunk * config.world.chunk
    return range(start, start + config.world.chunk)


def load(config: Any, chunk: int) -> NDArray[np.uint8]:
    """Pictures of one chunk, (chunk, size, size, 3), memory-mapped."""
    return np.asarray(np.load(chunk_path(config, chunk), mmap_mode="c"))


def render_seeds(seeds: range | list[int], size: int, *, wild: bool = False) -> NDArray[np.uint8]:
    """Scenes at their best, or wild: with the flaws that the seed says."""
    scenes = [draw(seed) for seed in seeds]
    return np.stack([render(s, size, s.quality) if wild else render(s, size) for s in scenes])


def sharp(seed: int) -> bool:
    """Whether a picture has neither noise nor blur: a decoder should not learn to make them."""
    quality = draw(seed).quality
    return not quality.noise and not quality.blur


def sharp_rows(config: Any, chunks: list[int]) -> list[tuple[int, int]]:
    """Chunk and row of every sharp picture."""
    return [(c, row) for c in chunks for row, seed in enumerate(seeds(config, c)) if sharp(seed)]


def held_out(config: Any, count: int) -> NDArray[np.uint8]:
    """Sharp pictures that no part of the model trains on, kept on disk."""
    path = config.paths.runs / "held-out.npy"
    if not path.exists() or len(np.load(path, mmap_mode="r")) < count:
        chosen = list(itertools.islice(filter(sharp, itertools.count(config.world.evaluation_seed)), count))
        save_atomically(path, render_seeds(chosen, config.world.size))
    return np.asarray(np.load(path, mmap_mode="c")[:count])


def save_atomically(path: Path, array: NDArray[Any]) -> None:
    """Write beside the target, then rename: readers never see half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    with partial.open("wb") as file:
        np.save(file, array)
    partial.rename(path)


def _work(config: Any, worker: int) -> None:
    """Render every chunk whose index is the worker's, modulo the number of workers, behind whoever trains."""
    os.nice(5)
    for chunk in range(worker, config.world.pictures // config.world.chunk, _workers(config)):
        if not chunk_path(config, chunk).exists():
            save_atomically(chunk_path(config, chunk), render_seeds(seeds(config, chunk), config.world.size, wild=True))


def _workers(config: Any) -> int:
    return int(config.world.workers or os.cpu_count() or 1)


def start(config: Any) -> list[SpawnProcess]:
    """Start the render workers; finished chunks are kept, so it can be resumed."""
    context = get_context("spawn")
    workers = [context.Process(target=_work, args=(config, i), daemon=True) for i in range(_workers(config))]
    for worker in workers:
        worker.start()
    return workers


def build(config: Any) -> None:
    """Render the data set with all workers."""
    for worker in start(config):
        worker.join()
        if worker.exitcode:
            raise RuntimeError(f"a render worker ended with status {worker.exitcode}")
