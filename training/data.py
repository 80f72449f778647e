"""The rendered data set: chunks of pictures on disk; scenes and captions follow from the seeds."""

import os
from multiprocessing import get_context
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
    return np.asarray(np.load(chunk_path(config, chunk), mmap_mode="r"))


def render_seeds(seeds: range | list[int], size: int) -> NDArray[np.uint8]:
    return np.stack([render(draw(seed), size) for seed in seeds])


def save_atomically(path: Path, array: NDArray[Any]) -> None:
    """Write beside the target, then rename: readers never see half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    with partial.open("wb") as file:
        np.save(file, array)
    partial.rename(path)


def _work(config: Any, worker: int) -> None:
    """Render every chunk whose index is the worker's, modulo the number of workers."""
    for chunk in range(worker, config.world.pictures // config.world.chunk, config.world.workers):
        if not chunk_path(config, chunk).exists():
            save_atomically(chunk_path(config, chunk), render_seeds(seeds(config, chunk), config.world.size))


def build(config: Any) -> None:
    """Render the data set with all workers; finished chunks are kept, so it can be resumed."""
    context = get_context("spawn")
    workers = [context.Process(target=_work, args=(config, i)) for i in range(config.world.workers)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        if worker.exitcode:
            raise RuntimeError(f"a render worker ended with status {worker.exitcode}")
