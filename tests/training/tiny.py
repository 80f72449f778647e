"""Settings, networks and batches small enough for equalities."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from diffusers import UNet2DConditionModel

from training import config, unet


def settings(runs: Path | None = None) -> SimpleNamespace:
    """8x8 latents of 4 channels, text of width 16."""
    s = config.load()
    s.world.size, s.autoencoder.channels, s.text.width = 128, 4, 16
    s.unet.blocks, s.unet.attention, s.unet.groups, s.unet.batch = [16, 16], [False, True], 8, 4
    s.unet.compile = False
    s.tuning.batch = s.student.batch = 4
    s.paths.runs = runs
    return s


def network(seed: int = 0) -> UNet2DConditionModel:
    torch.manual_seed(seed)
    return unet.build(settings())


class RandomSource:
    """Batches of noise, a function of the generator alone."""

    def batch(self, rng: np.random.Generator, size: int, dropout: float) -> tuple[torch.Tensor, torch.Tensor]:
        latents = torch.from_numpy(rng.standard_normal((size, 4, 8, 8), np.float32))
        return latents, torch.from_numpy(rng.standard_normal((size, 5, 16), np.float32)) * (1 - dropout)


def same(ours: unet.Trainer, theirs: unet.Trainer) -> bool:
    """Weights and averages are equal to the last bit."""
    pairs = zip(ours.parameters + ours.ema, theirs.parameters + theirs.ema, strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def halves(straight: unet.Trainer, first: unet.Trainer, second: unet.Trainer, file: Path) -> None:
    """Four steps of one trainer; two of another, and two of a third that resumes from its checkpoint."""
    for one, steps in ((straight, 4), (first, 2)):
        for _ in range(steps):
            one.step(RandomSource(), 0.1)
    torch.save(first.state(), file)
    second.restore(torch.load(file))
    for _ in range(2):
        second.step(RandomSource(), 0.1)
