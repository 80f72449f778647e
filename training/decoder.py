"""Training of the decoder: unit-scale PCA latents -> pixels, L1 plus L1 of gradients at three scales."""

import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from training import autoencoder, data
from training.clock import Clock


def checkpoint_path(config: Any) -> Path:
    return Path(config.paths.runs / "decoder.pt")


def parameters(vae: AutoencoderKL) -> list[nn.Parameter]:
    """What is trained; the encoder stays out."""
    return [*vae.post_quant_conv.parameters(), *vae.decoder.parameters()]


def gradient_loss(a: Tensor, b: Tensor, scales: int = 3) -> Tensor:
    """L1 of horizontal and vertical differences on a pyramid: weighs edges, which plain L1 leaves soft."""
    total = torch.zeros(())
    for _ in range(scales):
        e = a - b
        total = total + (e[..., 1:] - e[..., :-1]).abs().mean() + (e[..., 1:, :] - e[..., :-1, :]).abs().mean()
        a, b = nn.functional.avg_pool2d(a, 2), nn.functional.avg_pool2d(b, 2)
    return total / scales


class Crops:
    """Random crops of pictures, whole latent cells, with their latents."""

    def __init__(self, config: Any) -> None:
        self.a, self.pca = config.autoencoder, autoencoder.pca(config)
        self.pictures = [data.load(config, chunk) for chunk in data.finished(config)]
        self.cells = config.world.size // self.a.patch

    def batch(self, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Latents (batch, 16, crop, crop) with a little noise, and pixels in [-1, 1]."""
        side, patch = self.a.crop * self.a.patch, self.a.patch
        crops = []
        for _ in range(self.a.batch):
            chunk = self.pictures[rng.integers(len(self.pictures))]
            y, x = rng.integers(0, self.cells - self.a.crop + 1, 2) * patch
            crops.append(chunk[rng.integers(len(chunk)), y : y + side, x : x + side])
        pixels = np.stack(crops)
        latents = torch.from_numpy(self.pca.encode(pixels)).float()
        strength = self.a.noise * torch.from_numpy(rng.random((len(latents), 1, 1, 1), np.float32))
        latents = latents + strength * torch.from_numpy(rng.standard_normal(latents.shape, np.float32))
        return latents, torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


class Trainer:
    """Decoder, its average and optimiser."""

    def __init__(self, config: Any) -> None:
        self.a, self.factor = config.autoencoder, autoencoder.pca(config).scaling_factor
        torch.manual_seed(0)
        self.vae, self.step_number = autoencoder.build(config, self.factor), 0
        self.parameters = parameters(self.vae)
        self.ema = [p.detach().clone() for p in self.parameters]
        self.optimizer = torch.optim.AdamW(self.parameters, self.a.lr, (0.9, 0.99), weight_decay=0.0, fused=True)

    def step(self, crops: Crops, progress: float) -> float:
        """One step; the learning rate falls as a half cosine."""
        rate = self.a.lr * min(1.0, (self.step_number + 1) / 100) * max(0.5 + 0.5 * math.cos(math.pi * progress), 0.01)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        latents, pixels = crops.batch(np.random.default_rng([11, self.step_number]))
        with torch.autocast("cpu", torch.bfloat16):
            made = self.vae.decode(latents / self.factor).sample
        loss = nn.functional.l1_loss(made.float(), pixels) + self.a.gradient * gradient_loss(made.float(), pixels)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.step_number += 1
        decay = min(0.998, (1 + self.step_number) / (10 + self.step_number))
        torch._foreach_lerp_(self.ema, [p.detach() for p in self.parameters], 1 - decay)
        return float(loss.detach())

    def save(self, path: Path, seconds: float) -> None:
        partial = path.with_suffix(".partial")
        state = {"vae": self.vae.state_dict(), "ema": self.ema, "optimizer": self.optimizer.state_dict()}
        torch.save(state | {"step": self.step_number, "seconds": seconds}, partial)
        partial.rename(path)

    def restore(self, path: Path) -> float:
        state = torch.load(path, map_location="cpu")
        self.vae.load_state_dict(state["vae"])
        self.ema = [e.clone() for e in state["ema"]]
        self.optimizer.load_state_dict(state["optimizer"])
        self.step_number = state["step"]
        return float(state["seconds"])


def load_ema(config: Any) -> AutoencoderKL:
    """The averaged decoder of the last checkpoint, or random weights before the first one."""
    vae = autoencoder.build(config, autoencoder.pca(config).scaling_factor)
    if checkpoint_path(config).exists():
        ema = torch.load(checkpoint_path(config), map_location="cpu", mmap=True)["ema"]
        for p, e in zip(parameters(vae), ema, strict=True):
            p.data.copy_(e)
    return vae.eval().requires_grad_(False)


def train(config: Any, deadline: str | None = None) -> None:
    """Train one process until the minutes are over or the deadline comes; resumes from the checkpoint."""
    torch.set_num_threads(1)
    trainer, path = Trainer(config), checkpoint_path(config)
    before = trainer.restore(path) if path.exists() else 0.0
    clock = Clock.start_at(before, config.autoencoder.minutes, deadline)
    crops, saved, losses = Crops(config), time.monotonic(), list[float]()
    while (progress := clock.progress()) < 1:
        losses.append(trainer.step(crops, progress))
        if trainer.step_number % 50 == 0:
            _log(config, trainer, clock, losses)
            losses.clear()
        if time.monotonic() - saved > config.unet.checkpoint_minutes * 60:
            trainer.save(path, clock.elapsed())
            saved = time.monotonic()
    trainer.save(path, clock.elapsed())


def _log(config: Any, trainer: Trainer, clock: Clock, losses: list[float]) -> None:
    row = {"step": trainer.step_number, "seconds": round(clock.elapsed(), 1), "loss": round(float(np.mean(losses)), 5)}
    with (config.paths.runs / "decoder.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")


@torch.no_grad()
def psnr(config: Any, count: int = 32) -> dict[str, float]:
    """Peak signal-to-noise ratio on fresh pictures: linear inverse against the decoder."""
    pca, vae = autoencoder.pca(config), load_ema(config)
    start = config.world.evaluation_seed
    pictures = data.render_seeds(range(start, start + count), config.world.size)
    latents = pca.encode(pictures)
    made = vae.decode(torch.from_numpy(latents) / pca.scaling_factor).sample.permute(0, 2, 3, 1).numpy()
    truth = pictures.astype(np.float32) / 127.5 - 1

    def decibel(pixels: Any) -> float:
        error = ((np.clip(pixels, -1, 1) - truth) ** 2).mean((1, 2, 3))
        return float((10 * np.log10(4 / error)).mean())

    return {"linear": decibel(pca.decode(latents)), "decoder": decibel(made)}
