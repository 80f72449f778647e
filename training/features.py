"""What the UNet trains on: latents and text features of every picture, one pair of files per rendered chunk."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training import autoencoder, curation, data, text
from training.precision import autocast
from training.world import Scene, captions, draw


def folder(config: Any) -> Path:
    return Path(config.paths.runs / "features")


def _encode_chunk(config: Any, chunk: int, pca: autoencoder.Pca, tokenizer: Any, encoder: Any) -> None:
    """Latents (chunk, 2, 16, 16, 16), of the picture and its mirror image, and text features
    (chunk, captions, length, width), both float16."""
    pictures = data.load(config, chunk)
    latents = np.stack([pca.encode(view) for view in (pictures, pictures[:, :, ::-1])], 1).astype(np.float16)
    count, partial = config.text.per_picture, config.text.partial
    texts = [c for seed in data.seeds(config, chunk) for c in captions(draw(seed), count, partial)]
    with autocast(config.device):
        encoded = text.encode(tokenizer, encoder, texts).to(torch.float16).cpu().numpy()
    encoded = encoded.reshape(len(latents), config.text.per_picture, *encoded.shape[1:])
    data.save_atomically(folder(config) / f"text-{chunk:04d}.npy", encoded)
    data.save_atomically(folder(config) / f"latents-{chunk:04d}.npy", latents)


def build(config: Any, watch: bool) -> None:
    """Encode every rendered chunk that is not encoded yet; watch: until the whole data set is."""
    pca, (tokenizer, encoder) = autoencoder.pca(config), text.load(config.paths.runs)
    encoder = encoder.to(config.device)
    empty = text.encode(tokenizer, encoder, [""])[0].half().cpu().numpy()
    data.save_atomically(folder(config) / "empty.npy", empty)
    while True:
        missing = sorted(set(data.finished(config)) - set(encoded(config)))
        for chunk in missing:
            _encode_chunk(config, chunk, pca, tokenizer, encoder)
        if not watch or len(encoded(config)) * config.world.chunk >= config.world.pictures:
            return
        time.sleep(5)


def encoded(config: Any) -> list[int]:
    return sorted(int(p.stem.split("-")[1]) for p in folder(config).glob("latents-[0-9]*.npy"))


def mirrors(scene: Scene) -> bool:
    """Whether the captions fit the mirror image too: they do not where they may name a side."""
    return scene.relation != "left"


class Features:
    """All encoded chunks or a selection's pictures; `refresh` picks up chunks that appeared since."""

    def __init__(self, config: Any) -> None:
        self.config = config
        self.empty: NDArray[np.float16] = np.load(folder(config) / "empty.npy")
        self.chunks: list[int] = []
        self.latents: list[NDArray[np.float16]] = []
        self.texts: list[NDArray[np.float16]] = []
        self.mirrors: list[NDArray[np.bool_]] = []
        name = config.unet.selection
        self.selected = frozenset(curation.selection(config, name)) if name else None
        self.rows: NDArray[np.int_] = np.empty(0, int)
        self.refresh()

    def refresh(self) -> None:
        for chunk in encoded(self.config):
            if chunk not in self.chunks:
                self.chunks.append(chunk)
                self.latents.append(np.load(folder(self.config) / f"latents-{chunk:04d}.npy"))
                self.texts.append(np.load(folder(self.config) / f"text-{chunk:04d}.npy", mmap_mode="r"))
                self.mirrors.append(np.array([mirrors(draw(seed)) for seed in data.seeds(self.config, chunk)]))
        seeds = [seed for chunk in self.chunks for seed in data.seeds(self.config, chunk)]
        self.rows = np.array([i for i, seed in enumerate(seeds) if self.selected is None or seed in self.selected])

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, rng: np.random.Generator, size: int, dropout: float) -> tuple[Tensor, Tensor]:
        """Random latents (size, 16, 16, 16) and text features (size, length, width), some of them of ""."""
        rows, views, which, empty = self._choose(rng, size, dropout)
        pairs = [divmod(int(row), self.config.world.chunk) for row in rows]
        x = np.stack([self.latents[c][i, view] for (c, i), view in zip(pairs, views, strict=True)])
        texts = [self.empty if e else self.texts[c][i, w] for (c, i), w, e in zip(pairs, which, empty, strict=True)]
        return torch.from_numpy(x).float(), torch.from_numpy(np.stack(texts)).float()

    def _choose(self, rng: np.random.Generator, size: int, dropout: float) -> tuple[Any, Any, Any, Any]:
        """Pictures, 1 for their mirror images, which of their captions, is the caption dropped; (size,) each."""
        places, which = (rng.integers(n, size=size) for n in (len(self), self.config.text.per_picture))
        rows = self.rows[places]
        views = np.concatenate(self.mirrors)[rows] * rng.integers(2, size=size)
        return rows, views, which, rng.random(size) < dropout


class Resident(Features):
    """The chunks that are encoded now, held on the device: large batches need them faster than a disk gives them."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.all_latents, self.all_texts = (
            torch.cat([torch.from_numpy(np.array(part)).to(config.device) for part in parts])
            for parts in (self.latents, self.texts)
        )
        self.nothing = torch.from_numpy(self.empty).to(config.device)

    def refresh(self) -> None:
        if not self.chunks:
            super().refresh()

    def batch(self, rng: np.random.Generator, size: int, dropout: float) -> tuple[Tensor, Tensor]:
        chosen = (torch.from_numpy(part).to(self.nothing.device) for part in self._choose(rng, size, dropout))
        rows, views, which, empty = chosen
        texts = torch.where(empty[:, None, None], self.nothing, self.all_texts[rows, which])
        return self.all_latents[rows, views].float(), texts.float()
