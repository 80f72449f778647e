"""A run in pieces: what training goes on from and what publishing needs, small enough to be handed over."""

import tarfile
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from training import checkpoint, pieces

OTHERS = ("encoder_pca.npz", "tokenizer", "text_encoder")
ARCHIVE = "run.tar"


def pack(config: Any, folder: Path, whole: bool) -> Path:
    """Write all checkpoints of a run into a new folder: averaged weights in half precision, or whole ones."""
    with TemporaryDirectory() as name:
        archive = Path(name) / ARCHIVE
        with tarfile.open(archive, "w") as tar:
            for part in OTHERS:
                if (config.paths.runs / part).exists():
                    tar.add(config.paths.runs / part, part)
            for path in sorted(config.paths.runs.glob("*.pt")):
                tar.add(path if whole else _lighter(path, Path(name) / path.name), path.name)
        return pieces.split(archive, folder, config.pack.limit)


def _lighter(path: Path, target: Path) -> Path:
    """A copy without what only this run's optimisers need; a file without averages stays as it is."""
    state = checkpoint.load(path)
    torch.save(checkpoint.weights(state) if "ema" in state else state, target)
    return target


def unpack(config: Any, folder: Path) -> list[str]:
    """Join a folder of pieces and write its files over the run's; returns their names."""
    runs = Path(config.paths.runs)
    runs.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=runs) as name, tarfile.open(pieces.join(folder, Path(name) / ARCHIVE)) as tar:
        tar.extractall(name, filter="data")
        return list(_move(Path(name), runs, tar.getnames()))


def _move(source: Path, target: Path, names: list[str]) -> Iterator[str]:
    for name in names:
        if (source / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).rename(target / name)
            yield name
