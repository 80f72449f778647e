"""A larger picture: the model's upsampler on the engine, a sampler of the mathematics, the blocks of upscaling."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from service.diffusion.samplers import SAMPLERS
from service.diffusion.types import Denoised
from service.engines.contract import Engine, Surroundings, Ticket
from service.errors import InvalidRequest
from service.upscaling.blocks import Array, Grid, Pixels
from service.upscaling.sampling import Cursor, Enlargement, Evaluate, Layout, View
from service.upscaling.steps import Step

IN_FLIGHT = 4  # rows of blocks at once: rows of one network call
PASSES = (1, 2)


@dataclass(frozen=True)
class Upscale:
    """How a picture is enlarged, every number explicit."""

    model: str
    factor: int  # the network's own, or its square in two passes
    sampler: str
    sigmas: Sequence[float]  # decreasing, ending in 0
    seed: int


def upscale(engine: Engine, how: Upscale, pixels: Pixels, ticket: Ticket) -> Iterator[Step]:
    """The picture [h, w, 3] at ``factor`` times its size. Raises DarkroomError; cancelled, at the next network call."""
    layout = _layout(engine, how.model)
    passes = next((number for number in PASSES if layout.factor**number == how.factor), 0)
    if not passes:
        factors = " or ".join(str(layout.factor**number) for number in PASSES)
        raise InvalidRequest(f"{how.model} enlarges {factors} times", field="upscale.factor")
    height, width, _ = pixels.shape
    scales = [layout.factor**index for index in range(passes)]
    counts = [Grid.over(height * scale, width * scale, layout.side).count for scale in scales]
    for index in range(passes):
        last, rows = index == passes - 1, []
        for step in enlargement(engine, how, pixels, ticket):
            seen = step if last else replace(step, rows=step.rows[:0], blocks={})
            yield replace(seen, done=sum(counts[:index]) + step.done, total=sum(counts))
            if not last:
                rows.append(step.rows)
        if not last:
            pixels = np.concatenate(rows)


def enlargement(
    engine: Engine, how: Upscale, pixels: Pixels, ticket: Ticket, cursor: Cursor | None = None
) -> Enlargement:
    """One pass, which any process can continue from its cursor."""
    sampler, sigmas = SAMPLERS[how.sampler], np.array(how.sigmas)

    def network(x: Array, sigma: float, views: Sequence[View]) -> tuple[Array, Array]:
        levels = np.full(len(x), sigma, np.float32)
        return engine.upsample(how.model, x, levels, [Surroundings(*view) for view in views], ticket)

    def solve(evaluate: Evaluate, base: Array, noise: Array) -> Array:
        def denoise(x: Array, sigma: float) -> Denoised:
            x0 = evaluate(x, sigma)
            return Denoised(x0, (x - x0) / sigma)

        return sampler(denoise, base + float(sigmas[0]) * noise, sigmas, refuse)

    def refuse(_sigma: float, _sigma_next: float) -> Array:
        raise InvalidRequest(f"sampler {how.sampler} draws noise: take a deterministic one", field="upscale.sampler")

    layout = _layout(engine, how.model)
    return Enlargement(pixels, layout, network, solve, seed=how.seed, in_flight=IN_FLIGHT, cursor=cursor)


def _layout(engine: Engine, model: str) -> Layout:
    facts = engine.models[model].upsampler
    if facts is None:
        raise InvalidRequest(f"{model} has no upsampler", field="upscale")
    return Layout(facts.block, facts.factor, facts.thumbnail)
