"""What the UNet trains on: latents and text features of every picture, one pair of files per rendered chunk."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from training import autoencoder, data, text
from training.world import captions, draw


def folder(config: Any) -> Path:
    return Path(config.paths.runs / "features")


def _encode_chunk(config: Any, chunk: int, pca: autoencoder.Pca, tokenizer: Any, encoder: Any) -> None:
    """Latents (chunk, 16, 16, 16) and text features (chunk, captions, length, width), both float16."""
    latents = pca.encode(data.load(config, chunk)).astype(np.float16)
    texts = [c for seed in data.seeds(config, chunk) for c in captions(draw(seed), config.text.per_picture)]
    with torch.autocast("cpu", torch.bfloat16):
        encoded = text.encode(tokenizer, encoder, texts).to(torch.float16).numpy()
    encoded = encoded.reshape(len(latents), config.text.per_picture, *encoded.shape[1:])
    data.save_atomically(folder(config) / f"text-{chunk:04d}.npy", encoded)
    data.save_atomically(folder(config) / f"latents-{chunk:04d}.npy", latents)


def build(config: Any, watch: bool) -> None:
    """Encode every rendered chunk that is not encoded yet; watch: until the whole data set is."""
    pca, (tokenizer, encoder) = autoencoder.pca(config), text.load(config.paths.runs)
    data.save_atomically(folder(config) / "empty.npy", text.encode(tokenizer, encoder, [""])[0].half().numpy())
    while True:
        missing = sorted(set(data.finished(config)) - set(encoded(config)))
        for chunk in missing:
            _encode_chunk(config, chunk, pca, tokenizer, encoder)
        if not watch or len(encoded(config)) * config.world.chunk >= config.world.pictures:
            return
        time.sleep(5)


def encoded(config: Any) -> list[int]:
    return sorted(int(p.stem.split("-")[1]) for p in folder(config).glob("latents-[0-9]*.npy"))


class Features:
    """All encoded chunks, memory-mapped; `refresh` picks up chunks that appeared since."""

    def __init__(self, config: Any) -> None:
        self.config = config
        self.empty: NDArray[np.float16] = np.load(folder(config) / "empty.npy")
        self.chunks: list[int] = []
        self.latents: list[NDArray[np.float16]] = []
        self.texts: list[NDArray[np.float16]] = []
        self.refresh()

    def refresh(self) -> None:
        for chunk in encoded(self.config):
            if chunk not in self.chunks:
                self.chunks.append(chunk)
                self.latents.append(np.load(folder(self.config) / f"latents-{chunk:04d}.npy"))
                self.texts.append(np.load(folder(self.config) / f"text-{chunk:04d}.npy", mmap_mode="r"))

    def __len__(self) -> int:
        return len(self.chunks) * self.config.world.chunk

    def batch(self, rng: np.random.Generator, size: int, dropout: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Random latents (size, 16, 16, 16) and text features (size, length, width), some of them of ""."""
        rows = rng.integers(len(self), size=size)
        which = rng.integers(self.config.text.per_picture, size=size)
        empty = rng.random(size) < dropout
        pairs = [divmod(int(row), self.config.world.chunk) for row in rows]
        x = np.stack([self.latents[c][i] for c, i in pairs])
        texts = [self.empty if e else self.texts[c][i, w] for (c, i), w, e in zip(pairs, which, empty, strict=True)]
        return torch.from_numpy(x).float(), torch.from_numpy(np.stack(texts)).float()
