"""The student's discriminator: were these latents, noised, a picture's or the student's (Sauer et al. 2024, LADD)?

Imagine Flash has one too. It begins as the teacher's way down, with a head on the features of every resolution that
scores all cells, and learns whole.
"""

from copy import deepcopy
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from training.losses import hinge_loss


class Discriminator(nn.Module):
    """Scores of noised latents x = alpha x0 + sigma eps, given the caption."""

    def __init__(self, teacher: UNet2DConditionModel) -> None:
        super().__init__()
        names = ("time_proj", "time_embedding", "conv_in", "down_blocks")
        self.time_proj, self.time_embedding, self.conv_in, self.down_blocks = (
            deepcopy(getattr(teacher, name)).requires_grad_(True) for name in names
        )
        groups = teacher.config.norm_num_groups
        self.heads = nn.ModuleList(
            nn.Sequential(nn.GroupNorm(groups, width), nn.SiLU(), nn.Conv2d(width, 1, 1))
            for width in teacher.config.block_out_channels
        ).to(teacher.device, teacher.dtype)

    def forward(self, x: Tensor, timestep: Tensor, context: Tensor) -> Tensor:
        """x (n, c, h, w), timestep (n,), context (n, length, width) -> scores (n, cells of all resolutions)."""
        clock, scores = self.time_embedding(self.time_proj(timestep).to(x.dtype)), list[Tensor]()
        hidden = self.conv_in(x)
        for block, head in zip(self.down_blocks, self.heads, strict=True):
            seen = {"encoder_hidden_states": context} if hasattr(block, "has_cross_attention") else {}
            hidden, skips = block(hidden, clock, **seen)
            scores.append(head(skips[-2] if block.downsamplers else skips[-1]).flatten(1))
        return torch.cat(scores, 1)


class Adversary:
    """Discriminator and optimiser; whoever deceives it calls ``push``, then ``learn`` with what was judged."""

    def __init__(self, teacher: UNet2DConditionModel, alphas: Tensor, lr: float, timesteps: tuple[int, int]) -> None:
        """``alphas`` are the process's cumulative products, ``timesteps`` the range of the noise."""
        self.net, self.alphas, self.timesteps = Discriminator(teacher), alphas, timesteps
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr, (0.0, 0.99), weight_decay=0.0, fused=True)

    def scores(self, x0: Tensor, context: Tensor, generator: torch.Generator) -> Tensor:
        """Of latents noised to random timesteps."""
        t = torch.randint(*self.timesteps, (len(x0),), generator=generator, device=x0.device)
        alpha, sigma = (part.sqrt()[:, None, None, None] for part in (self.alphas[t], 1 - self.alphas[t]))
        noise = torch.randn(x0.shape, generator=generator, device=x0.device, dtype=x0.dtype)
        return self.net(alpha * x0 + sigma * noise, t, context)

    def push(self, x0: Tensor, context: Tensor, generator: torch.Generator) -> Tensor:
        """The gradient of minus the mean score: against it x0 goes to be taken for a picture."""
        self.net.requires_grad_(False)
        leaf = x0.detach().requires_grad_(True)
        return torch.autograd.grad(-self.scores(leaf, context, generator).mean(), leaf)[0]

    def learn(self, real: Tensor, fake: Tensor, context: Tensor, generator: torch.Generator) -> float:
        """One step on pictures' latents and the student's, of the same captions; returns the hinge loss."""
        self.net.requires_grad_(True)
        both = self.scores(torch.cat([real, fake]), context.repeat(2, 1, 1), generator)
        loss = hinge_loss(*both.float().chunk(2))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())

    def state_dict(self) -> dict[str, Any]:
        return {"net": self.net.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
