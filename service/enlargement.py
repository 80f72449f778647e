"""A wish for a larger picture made explicit, and the work that it will be, found without doing any."""

from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict

from service.diffusion.samplers import SAMPLERS
from service.diffusion.types import Array, Denoised
from service.engines.contract import ModelDescription, Upsampler
from service.errors import InvalidRequest
from service.fields import Recipe
from service.upscaling.blocks import Grid
from service.upscaling.lanczos import STRIP
from service.upscaling.options import Upscaling

IN_FLIGHT = 4  # rows of blocks at once: rows of one network call
PASSES = (1, 2)
WIDEST = 16_384  # pixels; memory grows with the width


class Enlargement(BaseModel):
    """Every number of the enlargement of a caller's own picture; its width and height are those before."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    model_digest: str
    width: int
    height: int
    seed: int | None  # of the network's noise
    upscale: Upscaling
    engine: str
    precision: str

    @property
    def preset(self) -> str:
        return "none"

    def calls(self, _: ModelDescription) -> tuple[()]:
        """No calls of a denoiser."""
        return ()


class Pass(NamedTuple):
    """The network over a whole picture once."""

    width: int
    height: int
    blocks: int
    evaluations: int  # of every block
    calls: int  # of the network: blocks of one anti-diagonal share one


class Work(NamedTuple):
    """What an enlargement takes."""

    steps: int  # blocks or strips: what progress counts
    passes: tuple[Pass, ...]  # none of lanczos
    calls: Counter[int]  # of the network, by their rows


NOTHING = Work(0, (), Counter())


def final(recipe: Recipe | Enlargement) -> tuple[int, int]:
    """Width and height of the file."""
    factor = recipe.upscale.factor if recipe.upscale else 1
    return recipe.width * factor, recipe.height * factor


def settled(wish: Upscaling, model: ModelDescription, width: int, height: int, max_pixels: float) -> Upscaling:
    """Every number of an enlargement; InvalidRequest for what cannot be done."""
    facts, method = model.upsampler, wish.method or ("network" if model.upsampler else "lanczos")
    check_size(width * wish.factor, height * wish.factor, max_pixels)
    if method == "lanczos":
        for name in ("sampler", "sigmas"):
            if getattr(wish, name) is not None:
                raise _refused(name, f"lanczos has no {name}; leave it out")
        return wish.model_copy(update={"method": method})
    if facts is None:
        raise _refused("method", f"{model.name} has no upsampler; take method lanczos")
    passes(facts, wish.factor, model.name)
    sigmas = wish.sigmas or facts.sigmas
    if not facts.sigma_min * (1 - 1e-9) <= sigmas[-2] <= sigmas[0] <= facts.sigma_max * (1 + 1e-9):
        known = f"{facts.sigma_min:g} to {facts.sigma_max:g}"
        raise _refused("sigmas", f"the upsampler of {model.name} knows noise levels from {known}, and 0 at the end")
    return Upscaling(factor=wish.factor, method=method, sampler=wish.sampler or "euler", sigmas=sigmas)


def check_size(width: int, height: int, max_pixels: float) -> None:
    """Refuse a file that is larger than this service makes."""
    if width > WIDEST or width * height > max_pixels:
        most = f"{max_pixels:.0f} pixels and {WIDEST} of width"
        raise _refused("factor", f"the picture would have {width}x{height} pixels, more than the {most} allowed here")


def passes(facts: Upsampler, factor: int, name: str) -> int:
    """How many times the network enlarges."""
    for number in PASSES:
        if facts.factor**number == factor:
            return number
    known = " or ".join(str(facts.factor**number) for number in PASSES)
    raise _refused("factor", f"the upsampler of {name} enlarges {known} times; take one of these or method lanczos")


def work(recipe: Recipe | Enlargement, model: ModelDescription) -> Work:
    """What the enlargement of a recipe takes; nothing where it has none."""
    how = recipe.upscale
    if how is None:
        return NOTHING
    if model.upsampler is None or how.sampler is None or how.sigmas is None:
        return Work(-(-recipe.height * how.factor // STRIP), (), Counter())
    facts, count = model.upsampler, evaluations(how.sampler, how.sigmas)
    done, calls = [], Counter[int]()
    for index in range(passes(facts, how.factor, model.name)):
        scale = facts.factor**index
        width, height = recipe.width * scale, recipe.height * scale
        grid = Grid.over(height, width, facts.block // facts.factor)
        rows = Counter(_diagonals(grid))
        calls.update({key: value * count for key, value in rows.items()})
        done.append(Pass(width * facts.factor, height * facts.factor, grid.count, count, rows.total() * count))
    return Work(sum(each.blocks for each in done), tuple(done), calls)


def evaluations(sampler: str, sigmas: tuple[float, ...]) -> int:
    """Network calls that a sampler makes for every block."""
    seen: list[float] = []

    def denoise(x: Array, sigma: float) -> Denoised:
        seen.append(sigma)
        return Denoised(x, np.zeros_like(x))

    SAMPLERS[sampler](denoise, np.ones((1, 1, 1)), np.array(sigmas), noiseless(sampler))
    return len(seen)


def noiseless(sampler: str) -> Any:
    """The source of noise of a sampler that must not ask for any."""

    def refuse(_sigma: float, _sigma_next: float) -> Array:
        raise _refused("sampler", f"sampler {sampler} draws noise: take a deterministic one")

    return refuse


def _diagonals(grid: Grid) -> Iterator[int]:
    """How many blocks are sampled together, from the first to the last."""
    progress = [0] * grid.rows
    while places := grid.ready(progress, IN_FLIGHT):
        for row, _ in places:
            progress[row] += 1
        yield len(places)


def _refused(name: str, message: str) -> InvalidRequest:
    return InvalidRequest(message, field=f"upscale.{name}")
