"""The straight line of one picture, synchronous: text -> noise -> sampler -> pixels."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from service.diffusion.compose import compose
from service.diffusion.conditioning import Transform, transformed
from service.diffusion.noise import SeededNoise
from service.diffusion.parameterization import Network
from service.diffusion.types import Array, Wrapper
from service.engines.contract import Conditioning, Engine, ModelDescription, Ticket
from service.engines.tensors import zero_conditioning
from service.recipe import Recipe


@dataclass(frozen=True)
class Picture:
    """Pixels uint8 [H, W, 3] and where the time went, in seconds, with the count of network calls."""

    pixels: NDArray[np.uint8]
    timings: dict[str, float]


@dataclass
class Stopwatch:
    """Adds up the seconds of named stages."""

    timings: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.timings[stage] = self.timings.get(stage, 0.0) + time.perf_counter() - start


def generate(engine: Engine, recipe: Recipe, ticket: Ticket, *watch: Wrapper) -> Picture:
    """Run a resolved recipe, enlarging left out. Raises DarkroomError; ``watch`` wraps the denoiser last, sees all."""
    clock = Stopwatch()
    model = engine.models[recipe.model]
    with clock("text_encode"):
        conditioning = encode(engine, recipe, ticket)
    with clock("denoise"):
        latent = develop(engine, recipe, model, conditioning, ticket, clock, watch)
    with clock("decode"):
        pixels = engine.decode(model.name, latent.astype(np.float32), ticket)
    return Picture(to_uint8(pixels), clock.timings)


def encode(engine: Engine, recipe: Recipe, ticket: Ticket) -> dict[str, Conditioning]:
    """The conditioning of every branch that the recipe evaluates."""
    prompts = {"cond": ("prompt", recipe.prompt)}
    if any("uncond" in call.rows for call in recipe.calls(engine.models[recipe.model])):
        prompts["uncond"] = ("negative_prompt", recipe.negative_prompt)
    model = engine.models[recipe.model]
    return {
        branch: zero_conditioning(model.networks["text_encoder"])
        if name == "negative_prompt" and not text and model.zeros_for_no_negative
        else engine.encode_text(recipe.model, engine.tokenize(recipe.model, text, field=name), ticket)
        for branch, (name, text) in prompts.items()
    }


def develop(
    engine: Engine,
    recipe: Recipe,
    model: ModelDescription,
    conditioning: dict[str, Conditioning],
    ticket: Ticket,
    clock: Stopwatch,
    watch: Sequence[Wrapper],
) -> Array:
    """Noise -> latent [C, h, w]: the sampler of the recipe over the engine's networks."""
    parts = recipe.parts(model)

    def networks(role: str) -> Network:
        transforms = parts.transforms if role == parts.network else ()

        def network(x: Array, timestep: Array, names: Sequence[str]) -> Array:
            with clock("network"):
                times = timestep / parts.parameterization.last_timestep
                rows = [transform(conditioning[name], transforms, at) for name, at in zip(names, times, strict=True)]
                inputs = x.astype(np.float32), timestep.astype(np.float32)
                output = engine.predict(model.name, role, *inputs, rows, ticket)
            clock.timings["network_calls"] = clock.timings.get("network_calls", 0) + 1
            return output

        return network

    branches = parts.parameterization.branches(networks(parts.network))
    denoise = compose(branches, parts.guidance, parts.corrections, *watch)
    factor = model.latent.factor
    noise = SeededNoise(recipe.seed, (model.latent.channels, recipe.height // factor, recipe.width // factor))
    x = parts.start(networks, noise.draw())
    return parts.finish(networks, parts.sampler(denoise, x, np.array(recipe.sigmas), noise))


def transform(conditioning: Conditioning, transforms: Sequence[Transform], time: float) -> Conditioning:
    """The conditioning of one row of one call; a changed one has no digest and travels by value."""
    arrays = transformed(transforms, conditioning.arrays, time)
    return conditioning if arrays is conditioning.arrays else Conditioning(arrays, digest="")


def to_uint8(pixels: Array) -> NDArray[np.uint8]:
    """[3, H, W] in [-1, 1] -> [H, W, 3] in 0..255, rounded as diffusers does."""
    return np.round(np.clip(pixels / 2 + 0.5, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)
