"""Training of the decoder: unit-scale PCA latents -> pixels, starting at the linear inverse."""

import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from export.subpixel import SubpixelDecoder
from training import autoencoder, checkpoint, data, judge
from training.clock import Clock
from training.losses import Discriminator, adaptive_weight, gradient_loss, hinge_loss, perceptual_loss
from training.precision import autocast


def checkpoint_path(config: Any) -> Path:
    return Path(config.paths.runs / "decoder.pt")


def to_pixels(pictures: Tensor) -> Tensor:
    """(n, h, w, 3) uint8 -> (n, 3, h, w) in [-1, 1]."""
    return pictures.permute(0, 3, 1, 2).float() / 127.5 - 1


class Crops:
    """Crops of sharp pictures and their mirror images, whole latent cells; on CUDA the pictures lie on the device."""

    kind = "renders"

    def __init__(self, config: Any) -> None:
        self.a, self.device = config.autoencoder, config.device
        self.encode = autoencoder.Encoder(autoencoder.pca(config)).to(self.device)
        chunks = data.finished(config)
        self.pictures = {chunk: torch.from_numpy(data.load(config, chunk)).to(self.device) for chunk in chunks}
        self.rows = data.sharp_rows(config, chunks)
        self.cells = config.world.size // self.a.patch

    def batch(self, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Latents (batch, 16, crop, crop) with a little noise, and pixels in [-1, 1]."""
        crops = [self._crop(*self.rows[rng.integers(len(self.rows))], rng.random() < 0.5, *self._corner(rng))
                 for _ in range(self.a.batch)]  # fmt: skip
        pixels = to_pixels(torch.stack(crops))
        latents = self.encode(pixels)
        generator = torch.Generator(self.device).manual_seed(int(rng.integers(2**63)))
        strength = self.a.noise * torch.rand((len(latents), 1, 1, 1), generator=generator, device=self.device)
        return latents + strength * torch.randn(latents.shape, generator=generator, device=self.device), pixels

    def _corner(self, rng: np.random.Generator) -> list[int]:
        """First row and column of a crop, in latent cells."""
        return rng.integers(0, self.cells - self.a.crop + 1, 2).tolist()

    def _crop(self, chunk: int, row: int, mirrored: bool, y: int, x: int) -> Tensor:
        """Pixels (side, side, 3) of a picture or its mirror image, from a latent cell on."""
        side, patch = self.a.crop * self.a.patch, self.a.patch
        picture = self.pictures[chunk][row]
        picture = picture.flip(1) if mirrored else picture
        return picture[y * patch : y * patch + side, x * patch : x * patch + side]


class Trainer:
    """Decoder, its average, optimiser and, once the adversarial loss has started, the discriminator."""

    def __init__(self, config: Any, kind: str = Crops.kind) -> None:
        """``kind`` of the crops it is trained on, for its checkpoint."""
        pca, self.kind = autoencoder.pca(config), kind
        self.a, self.factor, self.device = config.autoencoder, pca.scaling_factor, torch.device(config.device)
        torch.manual_seed(0)
        self.net = autoencoder.build(config, pca).to(self.device, memory_format=torch.channels_last)
        self.net.linear.requires_grad_(False)  # large steps would only spoil what is exact
        self.step_number = self.since = 0
        self.parameters = list(self.net.parameters())
        self.ema = [p.detach().clone() for p in self.parameters]
        self.optimizer = torch.optim.AdamW(self.parameters, self.a.lr, (0.9, 0.99), weight_decay=0.0, fused=True)
        self.critic = Discriminator(self.a.discriminator).to(self.device)
        self.critic_optimizer = torch.optim.AdamW(
            self.critic.parameters(), self.a.discriminator_lr, (0.5, 0.9), weight_decay=0.0, fused=True
        )
        self.eye = judge.load(config, "eye").to(self.device).requires_grad_(False) if self.a.perceptual else None

    def rate(self, progress: float) -> float:
        """Linear warm-up by steps, then half a cosine."""
        warm = min(1.0, (self.step_number - self.since + 1) / self.a.warmup)
        return float(self.a.lr * warm * max(0.5 + 0.5 * math.cos(math.pi * progress), 0.01))

    def step(self, crops: Crops, progress: float) -> float:
        """One optimiser step, and one of the discriminator; returns the reconstruction loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(progress)
        latents, pixels = crops.batch(np.random.default_rng([11, self.step_number]))
        adversarial = self.a.adversarial > 0 and progress >= self.a.adversarial_start
        with autocast(self.device):
            made = self.net.decode(latents / self.factor).sample.float()
            reconstruction = self.reconstruction(made, pixels)
            loss = reconstruction + self.deception(reconstruction, made) if adversarial else reconstruction
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, self.a.clip)
        self.optimizer.step()
        if adversarial:
            self.criticise(pixels, made.detach())
        self.step_number += 1
        steps = self.step_number - self.since
        torch._foreach_lerp_(self.ema, [p.detach() for p in self.parameters], 1 - min(self.a.ema, steps / (9 + steps)))
        return float(reconstruction.detach())

    def reconstruction(self, made: Tensor, pixels: Tensor) -> Tensor:
        """L1, L1 of gradients and distance of the eye's features."""
        loss = nn.functional.l1_loss(made, pixels) + self.a.gradient * gradient_loss(made, pixels)
        return loss + self.a.perceptual * perceptual_loss(self.eye, made, pixels) if self.eye else loss

    def deception(self, reconstruction: Tensor, made: Tensor) -> Tensor:
        """The generator's hinge loss, its gradient a fixed share of the reconstruction's."""
        fooled = -self.critic.requires_grad_(False)(made).float().mean()
        return self.a.adversarial * adaptive_weight(reconstruction, fooled, self.net.conv_out.weight) * fooled

    def criticise(self, real: Tensor, fake: Tensor) -> None:
        """One step of the discriminator."""
        self.critic.requires_grad_(True)
        with autocast(self.device):
            loss = hinge_loss(self.critic(real).float(), self.critic(fake).float())
        self.critic_optimizer.zero_grad()
        loss.backward()
        self.critic_optimizer.step()

    def state(self) -> dict[str, Any]:
        critic = {"critic": self.critic.state_dict(), "critic_optimizer": self.critic_optimizer.state_dict()}
        return checkpoint.state(self) | critic | {"kind": self.kind}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state of any device; one of averaged weights alone warms new optimisers up."""
        checkpoint.restore(self, state)
        if "critic" in state:
            self.critic.load_state_dict(state["critic"])
            self.critic_optimizer.load_state_dict(state["critic_optimizer"])


def load_ema(config: Any) -> SubpixelDecoder:
    """The averaged decoder of the last checkpoint, or the linear inverse before the first one."""
    net = autoencoder.build(config, autoencoder.pca(config))
    if checkpoint_path(config).exists():
        checkpoint.copy(net.parameters(), checkpoint.load(checkpoint_path(config))["ema"])
    return net.eval().requires_grad_(False)


def train(config: Any, deadline: str | None = None, crops: Crops | None = None) -> None:
    """Train one process until the minutes are over or the deadline comes.

    Resumes from the checkpoint; with another kind of crops its schedule and optimisers start anew.
    """
    torch.set_num_threads(1)
    crops = crops or Crops(config)
    trainer, path, before = Trainer(config, crops.kind), checkpoint_path(config), 0.0
    if path.exists():
        state = checkpoint.load(path)
        if state.get("kind", Crops.kind) != crops.kind:
            state = {key: state[key] for key in ("ema", "step")}
        trainer.restore(state)
        before = checkpoint.seconds(state, config.device)
    clock = Clock.start_at(before, config.autoencoder.minutes, deadline)
    saved, losses = time.monotonic(), list[float]()
    while (progress := clock.progress()) < 1:
        losses.append(trainer.step(crops, progress))
        if trainer.step_number % 50 == 0:
            _log(config, {"step": trainer.step_number, "seconds": clock.elapsed(), "loss": float(np.mean(losses))})
            losses.clear()
        if time.monotonic() - saved > config.unet.checkpoint_minutes * 60:
            save(config, trainer, clock.elapsed())
            saved = time.monotonic()
    save(config, trainer, clock.elapsed())


def save(config: Any, trainer: Trainer, seconds: float) -> None:
    """Write the checkpoint and log what it reaches on held-out pictures."""
    numbers = {"seconds": seconds, "device": config.device}
    checkpoint.save(checkpoint_path(config), trainer.state() | numbers)
    _log(config, {"step": trainer.step_number, "seconds": seconds} | psnr(config))


def _log(config: Any, row: dict[str, float]) -> None:
    with (config.paths.runs / "decoder.jsonl").open("a") as file:
        file.write(json.dumps({name: round(value, 5) for name, value in row.items()}) + "\n")


@torch.no_grad()
def psnr(config: Any) -> dict[str, float]:
    """Peak signal-to-noise ratio on held-out pictures: the linear inverse, and the averaged decoder."""
    pictures = data.held_out(config, config.autoencoder.held_out)
    pca, net = autoencoder.pca(config), load_ema(config).to(config.device)
    truth, latents = to_pixels(torch.from_numpy(pictures)), torch.from_numpy(pca.encode(pictures))
    scaled = (latents / pca.scaling_factor).to(config.device)
    made = torch.cat([net.decode(part).sample.cpu() for part in scaled.split(4)])
    linear = torch.from_numpy(pca.decode(latents.numpy())).permute(0, 3, 1, 2)
    return {"linear": decibel(linear, truth), "decoder": decibel(made, truth)}


def report(config: Any) -> str:
    return "\n".join(f"{name:8s} {value:.2f} dB" for name, value in psnr(config).items())


def decibel(made: Tensor, truth: Tensor) -> float:
    """Mean over pictures of 10 log10(2^2 / mean squared error)."""
    return float((10 * torch.log10(4 / (made.clamp(-1, 1) - truth).square().mean((1, 2, 3)))).mean())
