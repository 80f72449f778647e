"""Autoencoder: exact linear PCA analysis of 16x16 patches as encoder, a decoder that starts at its inverse.

Latents are z = (patch - mean) @ analysis, (768,) -> (16,), zero mean; the analysis scales component k by
spectrum_k^-exponent (in standard deviations), so high components keep a smaller share. Latents of the UNet are
scaling_factor * z with unit standard deviation overall.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from export.subpixel import SubpixelDecoder
from training import data

Array = NDArray[Any]  # float32


@dataclass(frozen=True)
class Pca:
    """Linear analysis and synthesis of patches; pixels are in [-1, 1], latents are channels first."""

    mean: Array  # (768,)
    analysis: Array  # (768, 16)
    synthesis: Array  # (16, 768)
    scaling_factor: float
    patch: int

    def encode(self, pictures: NDArray[np.uint8]) -> Array:
        """(n, size, size, 3) uint8 -> latents of unit scale (n, 16, size / 16, size / 16)."""
        z = (patches(pictures, self.patch) - self.mean) @ self.analysis * self.scaling_factor
        return np.ascontiguousarray(np.moveaxis(z, -1, 1))

    def decode(self, latents: Array) -> Array:
        """The linear inverse: unit-scale latents -> pixels (n, size, size, 3) in [-1, 1]."""
        flat = np.moveaxis(latents, 1, -1) / self.scaling_factor @ self.synthesis + self.mean
        n, h, w, _ = flat.shape
        blocks = flat.reshape(n, h, w, self.patch, self.patch, 3).transpose(0, 1, 3, 2, 4, 5)
        return np.asarray(blocks.reshape(n, h * self.patch, w * self.patch, 3))

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **vars(self))

    @classmethod
    def load(cls, path: Path) -> "Pca":
        with np.load(path) as f:
            return cls(f["mean"], f["analysis"], f["synthesis"], float(f["scaling_factor"]), int(f["patch"]))


def patches(pictures: NDArray[np.uint8], patch: int) -> Array:
    """(n, size, size, 3) uint8 -> flattened patches in [-1, 1], (n, size / patch, size / patch, patch^2 * 3)."""
    n, size = pictures.shape[:2]
    side = size // patch
    blocks = pictures.reshape(n, side, patch, side, patch, 3).transpose(0, 1, 3, 2, 4, 5)
    return blocks.reshape(n, side, side, -1).astype(np.float32) / 127.5 - 1


def fit(pictures: NDArray[np.uint8], patch: int, channels: int, exponent: float) -> Pca:
    """Eigenvectors of the patch covariance; component k is divided by its standard deviation to the exponent."""
    flat = patches(pictures, patch).reshape(-1, patch * patch * 3)
    mean = flat.mean(0)
    flat -= mean
    values, vectors = np.linalg.eigh((flat.T @ flat / len(flat)).astype(np.float64))
    values, vectors = values[::-1][:channels], vectors[:, ::-1][:, :channels]
    scale = np.sqrt(values) ** exponent
    spread = np.sqrt((values / scale**2).mean())  # std over all channels
    analysis, synthesis = vectors / scale, (vectors * scale).T
    mean, analysis, synthesis = (np.asarray(a, np.float32) for a in (mean, analysis, synthesis))
    return Pca(mean, analysis, synthesis, float(1 / spread), patch)


def pca(config: Any) -> Pca:
    """The fitted PCA of a run; fits it on the first pictures when it does not exist yet."""
    path = config.paths.runs / "encoder_pca.npz"
    if not path.exists():
        a = config.autoencoder
        fit(data.load(config, 0)[: a.pca_pictures], a.patch, a.channels, a.exponent).save(path)
    return Pca.load(path)


class Encoder(nn.Module):
    """The analysis as one convolution: pixels (n, 3, h, w) in [-1, 1] -> latents of unit scale (n, 16, h/16, w/16)."""

    def __init__(self, pca: Pca) -> None:
        super().__init__()
        analysis = pca.analysis.T * pca.scaling_factor  # (16, 768), rows, columns and colours
        kernel = analysis.reshape(-1, pca.patch, pca.patch, 3).transpose(0, 3, 1, 2)
        self.kernel = nn.Buffer(torch.from_numpy(np.ascontiguousarray(kernel)))
        self.bias = nn.Buffer(torch.from_numpy(-analysis @ pca.mean))
        self.patch = pca.patch

    def forward(self, pixels: Tensor) -> Tensor:
        return nn.functional.conv2d(pixels, self.kernel, self.bias, self.patch)


def build(config: Any, pca: Pca) -> SubpixelDecoder:
    """A decoder that is the linear inverse exactly; its input is the latent divided by the scaling factor."""
    a = config.autoencoder
    decoder = SubpixelDecoder(
        latent_channels=a.channels, block_out_channels=tuple(a.blocks), layers_per_block=tuple(a.layers),
        norm_num_groups=a.groups, scaling_factor=pca.scaling_factor,
    )  # fmt: skip
    decoder.set_linear(torch.from_numpy(pca.synthesis), torch.from_numpy(pca.mean))
    return decoder
