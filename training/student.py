"""The student: Imagine Flash (Kohler et al. 2024), on the service's own ``flash`` sampler.

A trajectory of 1, 2 or 3 student steps starts from noise and is cut from the gradient between steps (backward
distillation, sec. 3.2). At every step the student's x0 is pulled to where the teacher ends, who goes on in a few
guided steps: from the student's own x, or from the student's x0 with noise of a lower timestep (shifted
reconstruction, sec. 3.3). What starts from x0 is guided less: it has been guided already, and would be again in every
turn of the loop, until its colours run over.

All noise of the shifted start being fresh, as published, the pull has only the mean of the data as its fixed point
if no discriminator pushes back: the teacher forgets part of the student's picture and the average over noise shrinks
the rest. So the start keeps that share of the trajectory's own direction with which the exact ODE solution of unit
Gaussian data stays where it is. The discriminator (training/discriminator.py) pushes x0 at one step of a trajectory.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, sqrt
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from service.diffusion.parameterization import Parameterization
from service.diffusion.samplers import SAMPLERS
from service.diffusion.schedules import trailing
from service.diffusion.types import Array, Denoised
from training import checkpoint, features, sampling, stages, unet
from training.discriminator import Adversary
from training.precision import autocast
from training.sampling import Solve
from training.unet import Source

ABLATION: dict[str, dict[str, bool]] = {
    "student": {},
    "student-full": {},  # the same in as few steps as the ablation's others
    "student-no-backward": {"backward": False},
    "student-no-shift": {"shifted": False},
    "student-no-correction": {"noise_correction": False},
    "student-no-discriminator": {"discriminator": False},
    "student-fresh-noise": {"fresh": True},
}
Denoise = Callable[[Tensor, float], Any]  # x at sigma -> Denoised, of tensors
Normal = Callable[[], Tensor]  # unit noise shaped like the batch


@dataclass(frozen=True)
class Objective:
    """What the student's x0 is compared with. The switches are those of the paper's ablation."""

    process: Parameterization
    teacher_steps: int  # k: of the teacher from noise; from timestep t it makes k t / T, rounded up
    shift: float  # gamma(t) = shift * t
    backward: bool = True  # else x is noised data
    shifted: bool = True  # else the teacher starts where the student stands
    noise_correction: bool = True  # else plain DDIM
    fresh: bool = False  # all of the shifted start's noise is new, as published
    discriminator: bool = True  # else the teacher alone says what is right

    def losses(self, denoise: Denoise, solve: Solve, steps: int, data: Tensor, normal: Normal) -> list[Tensor]:
        """One loss for each step of a trajectory, in units of v: every step then weighs about the same."""
        terms: list[Tensor] = []

        def step(x: Tensor, sigma: float) -> Any:
            if terms and not self.backward:
                x = data + sigma * normal()
            own = denoise(x, sigma)
            here = Denoised(*(part.detach() for part in own))
            with torch.no_grad():
                target = self.target(solve, x, sigma, here, normal)
            terms.append((1 + 1 / sigma**2) * (own.x0 - target).square().mean())
            return here

        sigmas = trailing(self.process.noise_levels, steps)
        sampler: Any = SAMPLERS["flash" if self.noise_correction else "euler"]
        sampler(step, normal() / self.process.input_scale(float(sigmas[0])), sigmas, None)
        return terms

    def target(self, solve: Solve, x: Tensor, sigma: float, own: Any, normal: Normal) -> Tensor:
        """The teacher's x0 from x (backward distillation) or from the student's x0 at gamma(t) (shifted)."""
        timestep = self.process.sigma_to_timestep(sigma)
        if not self.shifted:
            return solve(x, self.teacher_sigmas(timestep))
        sigmas = self.teacher_sigmas(self.shift * timestep)
        share = 0.0 if self.fresh else min(own_share(float(sigmas[0])) / own_share(sigma), 1.0)
        noise = share * own.eps + sqrt(1 - share**2) * normal()
        return solve(own.x0 + float(sigmas[0]) * noise, sigmas)

    def teacher_sigmas(self, timestep: float) -> Array:
        """From a timestep to 0 in equal strides of about T / k."""
        steps = max(1, ceil(self.teacher_steps * timestep / self.process.last_timestep))
        return trailing(self.process.noise_levels, steps, start=round(timestep))


def own_share(sigma: float) -> float:
    """(1 - alpha) / sigma of the VP process: |eps| / |x| on the probability-flow ODE of unit Gaussian data."""
    return (sqrt(1 + sigma**2) - 1) / sigma


class Student(unet.Trainer):
    """The UNet's trainer with the distillation's loss."""

    def __init__(
        self, net: UNet2DConditionModel, teacher: UNet2DConditionModel, empty: Tensor, config: Any, objective: Objective
    ) -> None:
        super().__init__(net, config)
        layout = torch.channels_last if self.device.type == "cuda" else torch.preserve_format
        teacher = teacher.eval().requires_grad_(False).to(memory_format=layout)
        self.teacher = unet.compiled(teacher) if self.u.compile else teacher
        self.empty, self.objective = empty, objective
        u = self.u
        self.adversary = (
            Adversary(teacher, self.alphas, u.discriminator_lr, u.discriminator_timesteps)
            if objective.discriminator
            else None
        )
        again = {"guidance_scale": self.u.guidance} if objective.shifted else {}
        self.model, self.recipe = sampling.description(config), sampling.recipe(config, preset=self.u.preset, **again)

    def loss(self, source: Source) -> Tensor:
        """Mean over the steps of one trajectory, whose step counts take turns; the discriminator learns from one."""
        rng = np.random.default_rng([self.u.seed, self.step_number, self.rank])
        data, cond = (part.to(self.device) for part in source.batch(rng, self.u.batch, 0.0))
        generator = torch.Generator(self.device).manual_seed(int(rng.integers(2**63)))

        def normal() -> Tensor:
            return torch.randn(data.shape, generator=generator, device=self.device)

        branches = sampling.branches(self.forward, {"cond": cond}, self.objective.process)
        solve = sampling.guided(self.teacher, self.recipe, self.model, cond, self.empty)
        made: list[Tensor] = []

        def denoise(x: Tensor, sigma: float) -> Any:
            own = branches(x, sigma, ("cond",))[0]
            made.append(own.x0)
            return own

        with autocast(self.device):
            steps = self.u.counts[self.step_number % len(self.u.counts)]
            terms = self.objective.losses(denoise, solve, steps, data, normal)
            loss = torch.stack(terms).mean()
            if self.adversary:
                one = int(rng.integers(steps))
                loss = loss + self.deception(self.adversary, terms[one], made[one], cond, generator) / steps
                self.adversary.learn(data, made[one].detach(), cond, generator)
            return loss

    def deception(
        self, adversary: Adversary, term: Tensor, x0: Tensor, cond: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Pushes x0 to where the discriminator takes it for a picture's, by a fixed share of the teacher's pull."""
        pull = torch.autograd.grad(term, x0, retain_graph=True)[0]
        push = adversary.push(x0, cond, generator)
        return (x0 * push).sum() * (self.u.adversarial * pull.norm() / push.norm().clamp(min=1e-12))

    def state(self) -> dict[str, Any]:
        return super().state() | ({"adversary": self.adversary.state_dict()} if self.adversary else {})

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        if self.adversary and "adversary" in state:
            self.adversary.load_state_dict(state["adversary"])


def objective(config: Any, **switches: bool) -> Objective:
    """As the table [student] says, with some switches of an ablation."""
    s, alphas = config.student, unet.scheduler().alphas_cumprod.tolist()
    return Objective(Parameterization("vp", "v", alphas), s.teacher_steps, s.shift, **switches)


def train(config: Any, name: str) -> None:
    """Distil the teacher into one of ABLATION's students; resumes from runs/<name>.pt. ValueError: not one of them."""
    if name not in ABLATION:
        raise ValueError(f"{name} is not one of {', '.join(ABLATION)}")
    s, settings = config.student, stages.settings(config, "student")
    empty = torch.from_numpy(np.load(features.folder(config) / "empty.npy")).float().to(config.device)
    teacher, net = (stages.load(config, s.checkpoint) for _ in range(2))
    trainer = Student(net.train().requires_grad_(True), teacher, empty, settings, objective(config, **ABLATION[name]))
    stages.resume(stages.path(config, name), trainer)
    source = (features.Resident if config.device == "cuda" else features.Features)(settings)
    while trainer.step_number < s.max_steps:
        until = min(trainer.step_number + s.checkpoint_steps, s.max_steps)
        stages.advance(config, name, trainer, source, until, s.max_steps)
        checkpoint.save(stages.path(config, name), trainer.state())
