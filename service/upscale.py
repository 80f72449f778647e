"""A larger picture: the model's upsampler on the engine, a sampler of the mathematics, the blocks of upscaling."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from service.diffusion.samplers import SAMPLERS
from service.diffusion.types import Denoised
from service.engines.contract import Engine, Surroundings, Ticket, Upsampler
from service.enlargement import IN_FLIGHT, Enlargement, noiseless, passes
from service.errors import InvalidRequest
from service.fields import Recipe
from service.upscaling import sampling
from service.upscaling.blocks import Array, Grid, Pixels
from service.upscaling.lanczos import enlarge
from service.upscaling.sampling import Cursor, Evaluate, Layout, View
from service.upscaling.steps import Step


@dataclass(frozen=True)
class Upscale:
    """How a picture is enlarged, every number explicit."""

    model: str
    factor: int  # the network's own, or its square in two passes
    sampler: str
    sigmas: Sequence[float]  # decreasing, ending in 0
    seed: int


def enlarged(engine: Engine, recipe: Recipe | Enlargement, pixels: Pixels, ticket: Ticket) -> Iterator[Step]:
    """The picture [h, w, 3] as the recipe wants it enlarged, rows as they are done; interrupted between two steps."""
    how = recipe.upscale
    if how is None:
        return
    if how.sampler is None or how.sigmas is None:
        steps = enlarge(pixels, how.factor)
    else:
        network = Upscale(recipe.model, how.factor, how.sampler, how.sigmas, recipe.seed or 0)
        steps = upscale(engine, network, pixels, ticket)
    for step in steps:
        ticket.check()
        yield step


def upscale(engine: Engine, how: Upscale, pixels: Pixels, ticket: Ticket) -> Iterator[Step]:
    """The picture [h, w, 3] at ``factor`` times its size. Raises DarkroomError; cancelled, at the next network call."""
    layout = _layout(engine, how.model)
    number = passes(_facts(engine, how.model), how.factor, how.model)
    height, width, _ = pixels.shape
    scales = [layout.factor**index for index in range(number)]
    counts = [Grid.over(height * scale, width * scale, layout.side).count for scale in scales]
    for index in range(number):
        last, rows = index == number - 1, []
        for step in enlargement(engine, how, pixels, ticket):
            seen = step if last else replace(step, rows=step.rows[:0], blocks={})
            yield replace(seen, done=sum(counts[:index]) + step.done, total=sum(counts))
            if not last:
                rows.append(step.rows)
        if not last:
            pixels = np.concatenate(rows)


def enlargement(
    engine: Engine, how: Upscale, pixels: Pixels, ticket: Ticket, cursor: Cursor | None = None
) -> sampling.Enlargement:
    """One pass, which any process can continue from its cursor."""
    sampler, sigmas = SAMPLERS[how.sampler], np.array(how.sigmas)

    def network(x: Array, sigma: float, views: Sequence[View]) -> tuple[Array, Array]:
        levels = np.full(len(x), sigma, np.float32)
        return engine.upsample(how.model, x, levels, [Surroundings(*view) for view in views], ticket)

    def solve(evaluate: Evaluate, base: Array, noise: Array) -> Array:
        def denoise(x: Array, sigma: float) -> Denoised:
            x0 = evaluate(x, sigma)
            return Denoised(x0, (x - x0) / sigma)

        return sampler(denoise, base + float(sigmas[0]) * noise, sigmas, noiseless(how.sampler))

    layout = _layout(engine, how.model)
    return sampling.Enlargement(pixels, layout, network, solve, seed=how.seed, in_flight=IN_FLIGHT, cursor=cursor)


def _layout(engine: Engine, model: str) -> Layout:
    facts = _facts(engine, model)
    return Layout(facts.block, facts.factor, facts.thumbnail)


def _facts(engine: Engine, model: str) -> Upsampler:
    facts = engine.models[model].upsampler
    if facts is None:
        raise InvalidRequest(f"{model} has no upsampler", field="upscale")
    return facts
