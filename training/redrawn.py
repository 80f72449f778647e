"""Latents as the UNet draws them: those of renders, noised part of the way and sampled back (SDEdit, Meng et al. 2022).

Edges that a UNet draws are more ragged than those of renders' latents. A decoder that has seen both kinds, with the
render as truth for either, draws them straight.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from service.diffusion.schedules import trailing
from training import data, decoder, features, sampling, stages
from training.precision import autocast


class Redrawn(NamedTuple):
    """Pictures of the data set, by chunk and row, plain or mirrored, and their redrawn latents (n, c, h, w)."""

    chunks: NDArray[np.int_]
    rows: NDArray[np.int_]
    views: NDArray[np.int_]  # 1: mirrored
    latents: NDArray[np.float16]


def path(config: Any) -> Path:
    return Path(config.paths.runs / "redrawn.npz")


def load(config: Any) -> Redrawn:
    with np.load(path(config)) as file:
        return Redrawn(**file)


def train(config: Any, deadline: str | None = None) -> None:
    """Go on with the decoder, with the numbers of [redrawn], on renders' latents and redrawn ones; resumes."""
    redrawn = load(config) if path(config).exists() else make(config)
    merged = SimpleNamespace(**vars(config.autoencoder) | vars(config.redrawn))
    settings = SimpleNamespace(**vars(config) | {"autoencoder": merged})
    decoder.train(settings, deadline, Crops(settings, redrawn))


def make(config: Any) -> Redrawn:
    """Redraw sharp pictures in batches, each from a timestep of its own; the file is kept, and used until deleted."""
    r, rng = config.redrawn, np.random.default_rng(config.redrawn.seed)
    chosen = _choose(config, rng)
    batches = np.array_split(np.arange(len(chosen.rows)), -(-len(chosen.rows) // r.draws))
    redraw = _Redraw(config)
    parts = [redraw(chosen, part, float(rng.uniform(*r.timesteps)), rng) for part in tqdm(batches, "redraw")]
    made = chosen._replace(latents=np.concatenate(parts))
    partial = path(config).with_suffix(".partial.npz")
    np.savez(partial, **made._asdict())
    partial.rename(path(config))
    return made


def _choose(config: Any, rng: np.random.Generator) -> Redrawn:
    """As many pictures as configured, with the latents of the renders."""
    where = np.array(data.sharp_rows(config, features.encoded(config)))
    chunks, rows = where[rng.permutation(len(where))[: config.redrawn.pictures]].T
    views = rng.integers(2, size=len(rows))
    known = {c: np.load(features.folder(config) / f"latents-{c:04d}.npy", mmap_mode="r") for c in set(chunks.tolist())}
    latents = np.stack([known[c][i, v] for c, i, v in zip(chunks.tolist(), rows, views, strict=True)])
    return Redrawn(chunks, rows, views, latents)


class Crops(decoder.Crops):
    """Crops of renders, a share of them with the latents that the UNet has redrawn."""

    kind = "redrawn"

    def __init__(self, config: Any, redrawn: Redrawn) -> None:
        super().__init__(config)
        self.share, self.redrawn = config.redrawn.share, redrawn

    def batch(self, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        latents, pixels = super().batch(rng)
        for k in range(round(self.share * len(latents))):
            index = rng.integers(len(self.redrawn.rows))
            chunk, row, view, known = (part[index] for part in self.redrawn)
            y, x = self._corner(rng)
            latents[k] = torch.from_numpy(known[:, y : y + self.a.crop, x : x + self.a.crop])
            pixels[k] = decoder.to_pixels(self._crop(chunk, row, view == 1, y, x)[None])[0]
        return latents, pixels


class _Redraw:
    """The UNet, with the guidance and the sampler of a preset."""

    def __init__(self, config: Any) -> None:
        r = self.r = config.redrawn
        self.config, self.net, self.device = config, stages.load(config, r.checkpoint), config.device
        self.model, self.recipe = sampling.description(config), sampling.recipe(config, preset=r.preset)
        self.process = self.recipe.parts(self.model).parameterization
        self.empty = torch.from_numpy(np.load(features.folder(config) / "empty.npy")).float().to(self.device)

    @torch.no_grad()
    def __call__(
        self, chosen: Redrawn, part: NDArray[np.int_], timestep: float, rng: np.random.Generator
    ) -> NDArray[np.float16]:
        """Redraw some of the pictures from one timestep on."""
        known = torch.from_numpy(chosen.latents[part]).float().to(self.device)
        sigmas = trailing(self.process.noise_levels, self._steps(timestep), start=round(timestep))
        noise = torch.from_numpy(rng.standard_normal(known.shape, np.float32)).to(self.device)
        cond = torch.from_numpy(np.stack([self._text(chosen, i) for i in part])).float().to(self.device)
        solve = sampling.guided(self.net, self.recipe, self.model, cond, self.empty)
        with autocast(self.device):
            return solve(known + float(sigmas[0]) * noise, sigmas).half().cpu().numpy()

    def _steps(self, timestep: float) -> int:
        return max(1, round(self.r.steps * timestep / self.process.last_timestep))

    def _text(self, chosen: Redrawn, index: int) -> NDArray[np.float16]:
        path = features.folder(self.config) / f"text-{chosen.chunks[index]:04d}.npy"
        return np.asarray(np.load(path, mmap_mode="r")[chosen.rows[index], 0])
