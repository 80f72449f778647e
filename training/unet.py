"""Training of the UNet: v-prediction (Salimans & Ho 2022), Muon, EMA, learning rate by wall clock.

On CPUs several gloo processes share the work; on CUDA one process trains large batches that never leave the device.
"""

import json
import os
import time
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from diffusers.models.upsampling import Upsample2D
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from training import checkpoint, memory
from training.clock import Clock
from training.features import Features, Resident
from training.optimizers import MuonAdamW
from training.precision import autocast

STEPS = 1000


class Source(Protocol):
    """Where batches come from."""

    def batch(self, rng: np.random.Generator, size: int, dropout: float) -> tuple[Tensor, Tensor]: ...


def scheduler() -> DDPMScheduler:
    """The cosine schedule (Nichol & Dhariwal 2021): beta <= 0.999, so sigma_max is finite."""
    return DDPMScheduler(
        STEPS, beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", clip_sample=False,
        timestep_spacing="trailing", steps_offset=1,
    )  # fmt: skip


def build(config: Any) -> UNet2DConditionModel:
    """UNet of random weights; attention_head_dim is the number of heads (diffusers' historical misnomer)."""
    u = config.unet
    down = ["CrossAttnDownBlock2D" if attends else "DownBlock2D" for attends in u.attention]
    return UNet2DConditionModel(
        sample_size=config.world.size // config.autoencoder.patch, in_channels=config.autoencoder.channels,
        out_channels=config.autoencoder.channels, block_out_channels=tuple(u.blocks), layers_per_block=u.layers,
        down_block_types=tuple(down), up_block_types=tuple(d.replace("Down", "Up") for d in reversed(down)),
        cross_attention_dim=config.text.width, attention_head_dim=u.heads, norm_num_groups=u.groups,
    )  # fmt: skip


def compiled(net: UNet2DConditionModel) -> Any:
    """With fused kernels, but for the upsamplers: in bf16 on a CPU fused ones pass no gradient (torch 2.13)."""
    for part in net.modules():
        if isinstance(part, Upsample2D):
            part.forward = torch.compiler.disable(part.forward)
    return torch.compile(net)


class Trainer:
    """Network, EMA and optimiser; a step depends only on (seed, step, rank) and the weights."""

    def __init__(self, net: UNet2DConditionModel, config: Any, rank: int = 0, world: int = 1) -> None:
        u = config.unet
        self.net, self.u, self.rank, self.world, self.step_number, self.samples = net, u, rank, world, 0, 0
        self.since = 0  # step at which the optimiser started anew
        self.device = next(net.parameters()).device
        if self.device.type == "cpu":  # the fused kernel's backward is slow in bf16 there
            net.set_attn_processor(AttnProcessor())
        net.to(memory_format=torch.channels_last)
        self.forward = compiled(net) if u.compile else net
        self.parameters = list(net.parameters())
        self.ema = [p.detach().clone() for p in self.parameters]
        inside = (net.down_blocks, net.mid_block, net.up_blocks)
        self.optimizer = MuonAdamW(net, inside, u.lr, u.betas, u.weight_decay)
        self.alphas = scheduler().alphas_cumprod.to(self.device)

    def rate(self, progress: float) -> float:
        """Linear warm-up by steps, constant, then a linear fall over the last share of the run."""
        warm = min(1.0, (self.step_number - self.since + 1) / self.u.warmup)
        return float(self.u.lr * warm * min(1.0, max(1 - progress, 0.01) / self.u.decay))

    def loss(self, source: Source) -> Tensor:
        """Mean squared error of v = alpha eps - sigma x0 at t = 1000 u^power."""
        rng = np.random.default_rng([self.u.seed, self.step_number, self.rank])
        x0, context = (part.to(self.device) for part in source.batch(rng, self.u.batch, self.u.dropout))
        t = torch.from_numpy((STEPS * rng.random(len(x0)) ** self.u.power).astype(np.int64)).to(self.device)
        generator = torch.Generator(self.device).manual_seed(int(rng.integers(2**63)))
        noise = torch.randn(x0.shape, generator=generator, device=self.device)
        if self.u.noise_offset:  # one number a channel: brightness and contrast move (Dai et al. 2023)
            offset = torch.randn((*x0.shape[:2], 1, 1), generator=generator, device=self.device)
            noise = noise + self.u.noise_offset * offset
        alpha, sigma = (a.sqrt()[:, None, None, None] for a in (self.alphas[t], 1 - self.alphas[t]))
        with autocast(self.device):
            v = self.forward(alpha * x0 + sigma * noise, t, context).sample
        return (v.float() - (alpha * noise - sigma * x0)).square().mean()

    def step(self, source: Source, progress: float) -> float:
        """One optimiser step on the average gradient of all processes; returns this process's loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(progress)
        loss = self.loss(source)
        loss.backward()
        self._average_gradients()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step_number += 1
        self.samples += self.u.batch * self.world
        steps = self.step_number - self.since
        decay = min(self.u.ema, (1 + steps) / (10 + steps))
        torch._foreach_lerp_(self.ema, [p.detach() for p in self.parameters], 1 - decay)
        return float(loss.detach())

    def _average_gradients(self) -> None:
        if self.world == 1:
            return
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        flat = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(flat)
        flat /= self.world
        for g, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            g.copy_(part.view_as(g))

    def state(self) -> dict[str, Any]:
        return checkpoint.state(self) | {"samples": self.samples}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state of any device; one of averaged weights alone warms a new optimiser up."""
        checkpoint.restore(self, state)
        self.samples = state["samples"]


def checkpoint_path(config: Any) -> Path:
    return Path(config.paths.runs / f"{config.unet.name}.pt")


def last_state(config: Any) -> dict[str, Any] | None:
    """The run's checkpoint, else the averaged weights of the one it begins at, else None."""
    if checkpoint_path(config).exists():
        return dict(checkpoint.load(checkpoint_path(config)))
    if not config.unet.begin:
        return None
    origin = Path(config.paths.runs / f"{config.unet.begin}.pt")
    if not origin.exists():
        raise ValueError(f"{origin} does not exist: train {config.unet.begin} first")
    return {key: value for key, value in checkpoint.load(origin).items() if key in ("ema", "step", "samples")}


def save(config: Any, trainer: Trainer, seconds: float) -> None:
    numbers = {"seconds": seconds, "device": config.device}
    checkpoint.save(checkpoint_path(config), trainer.state() | numbers)


def load_ema(config: Any) -> UNet2DConditionModel:
    """The averaged network of the last checkpoint, or random weights before the first one."""
    torch.manual_seed(config.unet.seed)
    net = build(config)
    if checkpoint_path(config).exists():
        checkpoint.copy(net.parameters(), checkpoint.load(checkpoint_path(config))["ema"])
    return net.eval().requires_grad_(False)


def _work(rank: int, config: Any, deadline: str | None, port: int) -> None:
    """One process of the run: train until the clock ends, logging and saving on rank 0."""
    torch.set_num_threads(1)
    memory.keep_freed()
    world = config.unet.processes
    if world > 1:
        dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    torch.manual_seed(config.unet.seed)
    trainer, before = Trainer(build(config).to(config.device), config, rank, world), 0.0
    if state := last_state(config):
        trainer.restore(state)
        before = checkpoint.seconds(state, config.device)
    _loop(config, trainer, Clock.start_at(before, config.unet.minutes, deadline))
    if world > 1:
        dist.destroy_process_group()


def _loop(config: Any, trainer: Trainer, clock: Clock) -> None:
    """Step until progress is 1; rank 0's clock decides for all processes."""
    source = Resident(config) if config.device == "cuda" else Features(config)
    saved, losses = time.monotonic(), list[float]()
    while (progress := _agree(clock.progress(), trainer.world)) < 1:
        losses.append(trainer.step(source, progress))
        if trainer.step_number % 20 == 0:
            source.refresh()
            if trainer.rank == 0:
                _log(config, trainer, clock, losses, len(source))
            losses.clear()
        if trainer.rank == 0 and time.monotonic() - saved > config.unet.checkpoint_minutes * 60:
            save(config, trainer, clock.elapsed())
            saved = time.monotonic()
    if trainer.rank == 0:
        save(config, trainer, clock.elapsed())


def _agree(progress: float, world: int) -> float:
    """Rank 0's value, on every process."""
    if world == 1:
        return progress
    value = torch.tensor([progress], dtype=torch.float64)
    dist.broadcast(value, 0)
    return float(value)


def _log(config: Any, trainer: Trainer, clock: Clock, losses: list[float], pictures: int) -> None:
    row = {
        "time": datetime.now().isoformat(timespec="seconds"), "seconds": round(clock.elapsed(), 1),
        "step": trainer.step_number, "samples": trainer.samples, "loss": round(float(np.mean(losses)), 5),
        "rate": trainer.rate(clock.progress()), "pictures": pictures,
    }  # fmt: skip
    with checkpoint_path(config).with_suffix(".jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")


def train(config: Any, deadline: str | None = None) -> None:
    """Train with all processes until the minutes are over or the deadline HH:MM comes; resumes from the checkpoint."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    last_state(config)  # raises here rather than in every process
    port = 29500 + os.getpid() % 500
    if config.unet.processes == 1:
        _work(0, config, deadline, port)
    else:
        spawn(_work, (config, deadline, port), nprocs=config.unet.processes)
