"""Training of the upsampler: Karras et al. 2022's loss on crops of large renders, EMA, learning rate by wall clock."""

import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from service.upscaling import lanczos
from training import data
from training.clock import Clock
from training.degradations import crop
from training.upsampler import Upsampler

LOG = 20  # steps
RECIPE = Path(__file__).with_name("upsampler.toml")


def chunk_path(config: Any, index: int) -> Path:
    return Path(config.paths.runs / "renders" / f"{index:04d}.npy")


def workers(config: Any) -> int:
    return int(config.renders.workers or os.cpu_count() or 1)


def _render(config: Any, index: int) -> None:
    r = config.renders
    if not chunk_path(config, index).exists():
        seeds = range(r.seed + index * r.chunk, r.seed + (index + 1) * r.chunk)
        data.save_atomically(chunk_path(config, index), data.render_seeds(seeds, r.sizes[index % len(r.sizes)]))


def render(config: Any) -> None:
    """Render what is missing with all workers."""
    with ProcessPoolExecutor(workers(config), get_context("spawn")) as pool:
        list(pool.map(_render, [config] * config.renders.chunks, range(config.renders.chunks)))


class Crops(Dataset[tuple[Tensor, ...]]):
    """Sample number i is a function of the seed and i alone: uint8 tensors [h, w, 3]."""

    def __init__(self, config: Any, net: Upsampler, blocks: int) -> None:
        self.seed, self.blocks, self.sizes = config.upsampler.seed, blocks, net.sizes
        self.pictures = config.renders.chunk
        self.chunks = [chunk_path(config, index) for index in range(config.renders.chunks)]
        self.thumbnail = cache(self._thumbnail)

    def __getitem__(self, number: int) -> tuple[Tensor, ...]:
        rng = np.random.default_rng([self.seed, number])
        file, row = self.chunks[rng.integers(len(self.chunks))], rng.integers(self.pictures)
        cut = crop(self._picture(file, row), self.thumbnail(file, row), self.sizes, self.blocks, rng)
        return tuple(torch.from_numpy(np.array(part)) for part in cut)

    def _picture(self, file: Path, row: int) -> NDArray[np.uint8]:
        return np.asarray(np.load(file, mmap_mode="r")[row])

    def _thumbnail(self, file: Path, row: int) -> NDArray[np.uint8]:
        return lanczos.thumbnail(self._picture(file, row), self.sizes.thumbnail)


class Trainer:
    """Network, EMA and optimiser; a step depends only on (seed, step) and the weights."""

    def __init__(self, net: Upsampler, config: Any) -> None:
        u = config.upsampler
        self.net, self.u, self.step_number = net, u, 0
        self.device = next(net.parameters()).device
        self.parameters = list(net.parameters())
        self.ema = [p.detach().clone() for p in self.parameters]
        self.optimizer = torch.optim.AdamW(
            self.parameters, u.lr, tuple(u.betas), weight_decay=u.weight_decay, fused=True
        )

    def rate(self, progress: float) -> float:
        """Linear warm-up by steps, constant, then a linear fall over the last share of the run."""
        warm = min(1.0, (self.step_number + 1) / self.u.warmup)
        return float(self.u.lr * warm * min(1.0, max(1 - progress, 0.01) / self.u.decay))

    def loss(self, batch: list[Tensor]) -> Tensor:
        """Squared error of x0 under eq. 2's weight (sigma^2 + sigma_data^2) / (sigma sigma_data)^2."""
        sharp, base, lowres, thumbnail = (
            part.to(self.device, non_blocking=True).movedim(-1, 1) / 127.5 - 1 for part in batch
        )
        generator = torch.Generator(self.device).manual_seed(self.u.seed + self.step_number)
        mean, deviation = self.u.log_sigma
        normal = torch.randn(len(sharp), generator=generator, device=self.device)
        known = self.net.sizes.sigma_data
        sigma = (known * (mean + deviation * normal).exp()).clamp(self.u.sigma_min, self.u.sigma_max)
        noise = torch.randn(sharp.shape, generator=generator, device=self.device)
        noisy = sharp + sigma[:, None, None, None] * noise
        with torch.autocast(self.device.type, torch.bfloat16):
            x0 = self.net.picture(noisy, sigma, base, lowres, thumbnail)
        weight = (sigma**2 + known**2) / (sigma * known) ** 2
        return (weight * (x0.float() - sharp).square().mean((1, 2, 3))).mean()

    def step(self, batch: list[Tensor], progress: float) -> Tensor:
        """One optimiser step; its loss, still on the device."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(progress)
        loss = self.loss(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, self.u.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step_number += 1
        decay = min(self.u.ema, (1 + self.step_number) / (10 + self.step_number))
        torch._foreach_lerp_(self.ema, [p.detach() for p in self.parameters], 1 - decay)
        return loss.detach()

    def save(self, path: Path, seconds: float) -> None:
        """Write the checkpoint beside the old one, then rename."""
        partial = path.with_suffix(".partial")
        state = {"net": self.net.state_dict(), "ema": self.ema, "optimizer": self.optimizer.state_dict()}
        torch.save(state | {"step": self.step_number, "seconds": seconds}, partial)
        partial.rename(path)

    def restore(self, path: Path) -> float:
        """Go on from a checkpoint; the seconds that it took."""
        state = torch.load(path, map_location=self.device)
        self.net.load_state_dict(state["net"])
        self.ema = [e.clone() for e in state["ema"]]
        self.optimizer.load_state_dict(state["optimizer"])
        self.step_number = state["step"]
        return float(state["seconds"])


def checkpoint_path(config: Any) -> Path:
    return Path(config.paths.runs / "upsampler.pt")


def build(config: Any) -> Upsampler:
    """A network of random weights."""
    torch.manual_seed(config.upsampler.seed)
    return Upsampler(**vars(config.network))


def load_ema(config: Any) -> Upsampler:
    """The averaged network of the last checkpoint."""
    net, ema = build(config), torch.load(checkpoint_path(config), map_location="cpu", mmap=True)["ema"]
    for p, e in zip(net.parameters(), ema, strict=True):
        p.data.copy_(e)
    return net.eval().requires_grad_(False)


def batches(config: Any, net: Upsampler, step: int, blocks: int) -> Iterator[list[Tensor]]:
    """Batches of crops of so many blocks a side from one step on, without end; all have as many blocks."""
    size = config.upsampler.batch * (config.upsampler.crop // blocks) ** 2
    endless = range(step * size, 2**62)
    loader = DataLoader(
        Crops(config, net, blocks),
        size,
        sampler=endless,
        num_workers=workers(config),
        pin_memory=config.device == "cuda",
    )
    return iter(loader)


def published(config: Any, name: str) -> Upsampler:
    """The upsampler that this model of the repository has; ValueError if it has none of the configured sizes."""
    from export.weights import load_state_dict

    file = config.paths.repository / f"{name}_upsampler" / "1" / "model.onnx"
    if not file.exists():
        raise ValueError(f"{file} does not exist: {name} has no upsampler to go on from")
    net = build(config)
    try:
        net.load_state_dict({key: value.float() for key, value in load_state_dict(file).items()})
    except RuntimeError as error:
        raise ValueError(f"{name}: the published upsampler is not the configured one: {error}") from error
    return net


def train(config: Any, deadline: str | None = None, begin: str | None = None) -> None:
    """Render, then train until the minutes are over or the deadline HH:MM comes; resumes from the checkpoint.

    Without one it begins at random weights, or at those of a published model.
    """
    render(config)
    u, path = config.upsampler, checkpoint_path(config)
    trainer = Trainer((published(config, begin) if begin else build(config)).to(config.device), config)
    clock = Clock.start_at(trainer.restore(path) if path.exists() else 0.0, u.minutes, deadline)
    source, blocks, saved, losses = iter(list[list[Tensor]]()), 0, time.monotonic(), list[Tensor]()
    while (progress := clock.progress()) < 1:
        wanted = 1 if progress < u.alone else u.crop
        if wanted != blocks:
            blocks, source = wanted, batches(config, trainer.net, trainer.step_number, wanted)
        losses.append(trainer.step(next(source), progress))
        if trainer.step_number % LOG == 0:
            _log(config, trainer, clock, losses)
            losses.clear()
        if time.monotonic() - saved > u.checkpoint_minutes * 60:
            trainer.save(path, clock.elapsed())
            saved = time.monotonic()
    trainer.save(path, clock.elapsed())


def _log(config: Any, trainer: Trainer, clock: Clock, losses: list[Tensor]) -> None:
    row = {
        "seconds": round(clock.elapsed(), 1), "step": trainer.step_number,
        "blocks": trainer.step_number * trainer.u.batch * trainer.u.crop**2,
        "loss": round(float(torch.stack(losses).mean()), 5),
        "rate": trainer.rate(clock.progress()),
    }  # fmt: skip
    with (config.paths.runs / "upsampler.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")


def publish(config: Any, name: str) -> None:
    """Give a model of the repository the averaged network of the last checkpoint."""
    from export import upsampler
    from export.repository import add
    from service.engines.contract import Upsampler as Facts

    net, u = load_ema(config), config.upsampler
    s = net.sizes
    facts = Facts(block=s.block, factor=s.factor, thumbnail=s.thumbnail, sigma_min=u.sigma_min, sigma_max=u.sigma_max)
    add(upsampler.Upsampler(net), config.paths.repository, name, upsampler=facts)
