"""Training of the upsampler: Karras et al. 2022's loss on crops of large renders, Muon, EMA, learning rate by clock."""

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from service.upscaling import lanczos
from training import checkpoint, data
from training.clock import Clock
from training.degradations import Pixels, crop
from training.judge import Judge
from training.losses import border_loss, perceptual_loss
from training.optimizers import MuonAdamW
from training.precision import autocast
from training.upsampler import Upsampler

LOG = 20  # steps
RECIPE = Path(__file__).with_name("upsampler.toml")


def chunk_path(config: Any, index: int) -> Path:
    return Path(config.paths.runs / "renders" / f"{index:04d}.npy")


def reproduced_path(config: Any, index: int) -> Path:
    return chunk_path(config, index).with_stem(f"reproduced-{index:04d}")


def workers(config: Any) -> int:
    return int(config.renders.workers or os.cpu_count() or 1)


def _render(config: Any, index: int) -> None:
    r = config.renders
    if not chunk_path(config, index).exists():
        seeds = range(r.seed + index * r.chunk, r.seed + (index + 1) * r.chunk)
        data.save_atomically(chunk_path(config, index), data.render_seeds(seeds, r.sizes[index % len(r.sizes)]))


def render(config: Any) -> None:
    """Render what is missing with all workers, and send the small versions through the model's autoencoder."""
    indices = range(config.renders.chunks)
    with ProcessPoolExecutor(workers(config), get_context("spawn")) as pool:
        list(pool.map(_render, [config] * len(indices), indices))
    missing = [index for index in indices if not reproduced_path(config, index).exists()]
    if config.renders.reproduced and missing:
        reproduce = published_autoencoder(config)
        for index in missing:
            pictures = np.load(chunk_path(config, index), mmap_mode="r")
            data.save_atomically(reproduced_path(config, index), np.stack([reproduce(p) for p in pictures]))


def published_autoencoder(config: Any) -> Callable[[Pixels], Pixels]:
    """From a large picture to its small version as the model would draw it: box-filtered, encoded and decoded.

    The latent has some noise, as one that was sampled has.
    """
    from export.weights import rebuild
    from training.autoencoder import Pca
    from training.published import PCA

    pca, decoder, r = Pca.load(PCA), rebuild(config.paths.repository, config.renders.model).vae, config.renders

    @torch.inference_mode()
    def reproduce(picture: Pixels) -> Pixels:
        small = Image.fromarray(picture).reduce(config.network.factor)
        latent = torch.from_numpy(pca.encode(np.asarray(small)[None]))
        generator = torch.Generator().manual_seed(int(picture.sum()))
        latent += r.latent_noise * torch.randn(latent.shape, generator=generator)
        pixels = decoder.decode(latent / decoder.config.scaling_factor).sample[0].movedim(0, -1)
        return ((pixels + 1) * 127.5).round().clamp(0, 255).byte().numpy()

    return reproduce


class Crops(Dataset[tuple[Tensor, ...]]):
    """Sample number i is a function of the seed and i alone: uint8 tensors [h, w, 3]."""

    def __init__(self, config: Any, net: Upsampler) -> None:
        self.seed, self.blocks, self.sizes = config.upsampler.seed, config.upsampler.crop, net.sizes
        self.pictures, self.share = config.renders.chunk, config.renders.reproduced
        indices = range(config.renders.chunks)
        self.chunks = [(chunk_path(config, index), reproduced_path(config, index)) for index in indices]
        self.thumbnail = cache(self._thumbnail)

    def __getitem__(self, number: int) -> tuple[Tensor, ...]:
        rng = np.random.default_rng([self.seed, number])
        (file, reproduced), row = self.chunks[rng.integers(len(self.chunks))], rng.integers(self.pictures)
        small = self._picture(reproduced, row) if rng.random() < self.share else None
        cut = crop(self._picture(file, row), self.thumbnail(file, row), self.sizes, self.blocks, rng, small)
        return tuple(torch.from_numpy(np.array(part)) for part in cut)

    def _picture(self, file: Path, row: int) -> Pixels:
        return np.asarray(np.load(file, mmap_mode="r")[row])

    def _thumbnail(self, file: Path, row: int) -> Pixels:
        return lanczos.thumbnail(self._picture(file, row), self.sizes.thumbnail)


class Trainer:
    """Network, EMA and optimisers; a step depends only on (seed, step) and the weights."""

    def __init__(self, net: Upsampler, config: Any, eyes: Sequence[Judge] = ()) -> None:
        """x0 should share features with the render: those of the eyes, which look in turns.

        What one network alone sees is learnt for that network alone (Kettunen et al. 2019: ensembles for LPIPS).
        """
        u = config.upsampler
        self.net, self.u, self.step_number = net, u, 0
        self.device = next(net.parameters()).device
        self.eyes = [eye.to(self.device).requires_grad_(False) for eye in eyes]
        self.parameters = list(net.parameters())
        self.ema = [p.detach().clone() for p in self.parameters]
        self.optimizer = MuonAdamW(net, (net.cross, net.layers), u.lr, u.betas, u.weight_decay)
        for layer in net.layers if u.compile else ():
            layer.compile()

    def rate(self, progress: float) -> float:
        """In each phase a linear rise, constant, then a linear fall; shares of the phase's wall clock."""
        d = self.u.drafts
        phase = progress / d if progress < d else (progress - d) / (1 - d)
        return float(self.u.lr * min(1.0, (phase + 1e-3) / self.u.warmup, max(1 - phase, 0.01) / self.u.decay))

    def loss(self, batch: list[Tensor], progress: float) -> Tensor:
        """Squared error, that of steps over borders, distance of an eye's features, [3].

        At first of drafts alone, then of x0 over them. The errors of x0 have eq. 2's weight
        (sigma^2 + sigma_data^2) / (sigma sigma_data)^2, those of drafts 1 / sigma_data^2.
        """
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
        weight = (sigma**2 + known**2) / (sigma * known) ** 2
        with autocast(self.device):
            if progress < self.u.drafts:
                made, weight = self.net.draft(base, lowres), torch.ones_like(sigma) / known**2
            else:
                made = self.net.picture(noisy, sigma, base, lowres, thumbnail, alone=progress < self.u.alone)
            seen = self.seen(made.float(), sharp)
        made = made.float()
        error = (weight * (made - sharp).square().mean((1, 2, 3))).mean()
        seams = (weight * border_loss(made, sharp, self.net.sizes.block)).mean()
        return torch.stack([error, self.u.borders * seams, self.u.perceptual * seen])

    def seen(self, made: Tensor, sharp: Tensor) -> Tensor:
        """How far apart both are to the eye whose turn it is."""
        if not self.eyes:
            return made.new_zeros(())
        return perceptual_loss(self.eyes[self.step_number % len(self.eyes)], made, sharp)

    def step(self, batch: list[Tensor], progress: float) -> Tensor:
        """One optimiser step; the terms of its loss, still on the device."""
        self.net.drafter.requires_grad_(progress < self.u.drafts)
        loss = self.loss(batch, progress)
        loss.sum().backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, self.u.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(progress)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step_number += 1
        decay = min(self.u.ema, (1 + self.step_number) / (10 + self.step_number))
        torch._foreach_lerp_(self.ema, [p.detach() for p in self.parameters], 1 - decay)
        return loss.detach()

    def save(self, path: Path, seconds: float) -> None:
        state = {"net": self.net.state_dict(), "ema": self.ema, "optimizer": self.optimizer.state_dict()}
        checkpoint.save(path, state | {"step": self.step_number, "seconds": seconds})

    def restore(self, path: Path) -> float:
        """Go on from a checkpoint; the seconds that it took."""
        state = checkpoint.load(path)
        self.net.load_state_dict(state["net"])
        checkpoint.copy(self.ema, state["ema"])
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
    net = build(config)
    checkpoint.copy(net.parameters(), checkpoint.load(checkpoint_path(config))["ema"])
    return net.eval().requires_grad_(False)


def batches(config: Any, net: Upsampler, step: int) -> Iterator[list[Tensor]]:
    """Batches of crops from one step on, without end."""
    crops, size = Crops(config, net), config.upsampler.batch
    endless, pinned = range(step * size, 2**62), config.device == "cuda"
    return iter(DataLoader(crops, size, sampler=endless, num_workers=workers(config), pin_memory=pinned))


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


def train(config: Any, deadline: str | None = None, begin: str | None = None, eyes: Sequence[Judge] = ()) -> None:
    """Render, then train until the minutes are over or the deadline HH:MM comes; resumes from the checkpoint.

    Without one it begins at random weights, or at those of a published model. ``eyes``: see Trainer.
    """
    render(config)
    u, path = config.upsampler, checkpoint_path(config)
    trainer = Trainer((published(config, begin) if begin else build(config)).to(config.device), config, eyes)
    clock = Clock.start_at(trainer.restore(path) if path.exists() else 0.0, u.minutes, deadline)
    source, saved, losses = batches(config, trainer.net, trainer.step_number), time.monotonic(), list[Tensor]()
    while (progress := clock.progress()) < 1:
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
        "loss": [round(value, 5) for value in torch.stack(losses).mean(0).tolist()],
        "rate": trainer.rate(clock.progress()),
    }  # fmt: skip
    with (config.paths.runs / "upsampler.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")


def publish(config: Any, name: str) -> None:
    """Give a model of the repository the averaged network of the last checkpoint, with ``share`` of its refinement."""
    from export import upsampler
    from export.repository import add
    from service.engines.contract import Upsampler as Facts

    net, u = load_ema(config), config.upsampler
    for parameter in net.out.parameters():
        parameter.mul_(u.share)
    s = net.sizes
    facts = Facts(
        block=s.block,
        factor=s.factor,
        thumbnail=s.thumbnail,
        sigma_min=u.sigma_min,
        sigma_max=u.sigma_max,
        sigmas=u.sigmas,
    )
    add(upsampler.Upsampler(net), config.paths.repository, name, upsampler=facts)
