"""A peer on the same weights: diffusers' own pipeline (eager)."""

import copy
import threading
from typing import Any

import numpy as np
import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline

from service.diffusion.noise import SeededNoise

STEPS, GUIDANCE = 10, 4.0


def noise(pipeline: StableDiffusionPipeline, seed: int, size: int) -> np.ndarray:
    """Darkroom's own unit noise of this seed [C, h, w]: every contestant starts from the same array."""
    factor = 2 ** (len(pipeline.vae.config.block_out_channels) - 1)
    return (
        SeededNoise(seed, (pipeline.unet.config.in_channels, size // factor, size // factor)).draw().astype(np.float32)
    )


class Diffusers:
    """diffusers' StableDiffusionPipeline, eager, Euler on a linspace grid."""

    def __init__(self, pipeline: StableDiffusionPipeline, dtype: torch.dtype, size: int) -> None:
        self.pipeline = pipeline.to(dtype)
        self.pipeline.scheduler = EulerDiscreteScheduler.from_config(
            pipeline.scheduler.config, timestep_spacing="linspace", interpolation_type="linear"
        )
        self.pipeline.set_progress_bar_config(disable=True)
        self.dtype, self.size, self._local = dtype, size, threading.local()

    @property
    def _tokenizer(self) -> Any:
        """One for each thread: how they pad and cut is a state that calls change."""
        if not hasattr(self._local, "tokenizer"):
            self._local.tokenizer = copy.deepcopy(self.pipeline.tokenizer)
        return self._local.tokenizer

    def __call__(self, prompt: str, seed: int, steps: int = STEPS) -> np.ndarray:
        """Prompt and seed -> pixels [H, W, 3] in [0, 1]."""
        scheduler = type(self.pipeline.scheduler).from_config(self.pipeline.scheduler.config)
        pipeline = StableDiffusionPipeline(
            **{**self.pipeline.components, "scheduler": scheduler, "tokenizer": self._tokenizer},
            requires_safety_checker=False,
        )
        pipeline.set_progress_bar_config(disable=True)
        latents = torch.from_numpy(noise(self.pipeline, seed, self.size))[None].to(self.dtype)
        result = pipeline(
            prompt, latents=latents, num_inference_steps=steps, guidance_scale=GUIDANCE,
            height=self.size, width=self.size, output_type="np",
        )  # fmt: skip
        return np.asarray(result.images[0], np.float32)
