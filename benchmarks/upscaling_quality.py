"""Is the upsampler better than a kernel? Held-out renders made small, enlarged again and held against themselves.

    python -m benchmarks.upscaling_quality [--pictures 24] [--sheet PNG]

Needs the judge (python -m training judge) for its features. Prints means with 95 % intervals over pictures.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from service.engines.contract import Engine, Ticket, Upsampler
from service.engines.factory import open_engine
from service.enlargement import Enlargement, settled
from service.settings import Settings
from service.upscale import enlarged
from service.upscaling.blocks import Array
from service.upscaling.options import Upscaling
from training import config as configuration
from training import judge
from training.degradations import degrade
from training.judge import Judge
from training.losses import perceptual_loss
from training.measures import estimate, frechet
from training.world import draw, render

SEED = 50_000_000  # far from those of every data set
CUT = 160  # pixels along a crop of the sheet
RENDER = "render"
PSNR, FAR, BORDERS = "PSNR, dB", "feature distance", "gradient at borders / inside"
Pixels = NDArray[np.uint8]
Enlarge = Callable[[Pixels], Pixels]
Row = dict[str, float]


class Compared(NamedTuple):
    """One render enlarged by every way."""

    measures: dict[str, Row]
    features: dict[str, Array]  # [crops, d] of every way and of the render


@click.command()
@click.option("--model", default="postcard", show_default=True)
@click.option("--pictures", "count", type=click.IntRange(min=2), default=24, show_default=True)
@click.option("--side", default=1024, show_default=True, help="Of the renders.")
@click.option("--sigmas", multiple=True, help='Further noise levels to try, such as "1 0.1 0"; repeatable.')
@click.option("--sheet", "file", type=click.Path(path_type=Path), help="Crops of some of them, side by side.")
@click.option("--config", type=click.Path(exists=True, path_type=Path), default=configuration.DEFAULT)
def main(model: str, count: int, side: int, sigmas: tuple[str, ...], file: Path | None, config: Path) -> None:
    """Enlarge by every way and print what it costs in fidelity and gives in detail."""
    settings = configuration.load(config)
    if not judge.path(settings).exists():
        raise click.ClickException(f"{judge.path(settings)} is missing: train the judge (python -m training judge)")
    engine, referee = open_engine(Settings(model_repository=settings.paths.repository)), judge.load(settings)
    facts = engine.models[model].upsampler
    if facts is None:
        raise click.ClickException(f"{model} has no upsampler")
    wishes: dict[str, dict[str, Any]] = {"Lanczos": {"method": "lanczos"}, "network": {"method": "network"}}
    wishes |= {
        f"network {levels}": {"method": "network", "sigmas": [float(level) for level in levels.split()]}
        for levels in sigmas
    }
    ways = {name: partial(enlarge, engine, model, wish) for name, wish in wishes.items()}
    for spoiled in (False, True):
        click.echo("made small, and through blur, noise or JPEG" if spoiled else "made small")
        pairs = list(pictures(count, side, facts.factor, spoiled))
        rows = [compare(ways, facts, referee, *pair) for pair in pairs]
        for line in told(rows):
            click.echo("  " + line)
        if file and not spoiled:
            click.echo(f"  Lanczos | network | render: {sheet(ways, pairs[:6], file)}")


def told(rows: list[Compared]) -> Iterator[str]:
    """A line for each measure of each way, and the differences and ratios that the goals speak of."""
    found = {
        way: {name: np.array([row.measures[way][name] for row in rows]) for name in measures}
        for way, measures in rows[0].measures.items()
    }
    features = {way: np.concatenate([row.features[way] for row in rows]) for way in rows[0].features}
    frechets = {way: frechet(features[way], features[RENDER]) for way in found}
    for way, measures in found.items():
        for name, values in measures.items():
            yield f"{way}: {name} {estimate(values)}"
        yield f"{way}: Frechet distance of crops {frechets[way]:.3f}"
    plain = found.pop("Lanczos")
    for way, measures in found.items():
        yield f"{way}, PSNR less Lanczos': {estimate(measures[PSNR] - plain[PSNR])} dB; goal >= -0.5"
        yield f"{way}, feature distance over Lanczos': {measures[FAR].mean() / plain[FAR].mean():.3f}; goal <= 0.7"
        yield f"{way}, Frechet distance over Lanczos': {frechets[way] / frechets['Lanczos']:.3f}; goal <= 0.7"
        seam = measures[BORDERS] / plain[BORDERS] - 1
        yield f"{way}, gradients at borders / inside, over Lanczos', less 1: {estimate(seam)}; goal within 0.02"


def enlarge(engine: Engine, model: str, wish: dict[str, Any], small: Pixels) -> Pixels:
    """As the service does it."""
    facts = engine.models[model]
    assert facts.upsampler is not None
    height, width, _ = small.shape
    wanted = Upscaling.model_validate({"factor": facts.upsampler.factor, **wish})
    recipe = Enlargement(
        model=model, model_digest=facts.digest, width=width, height=height, seed=0,
        upscale=settled(wanted, facts, width, height, np.inf), engine=engine.name, precision=engine.precision,
    )  # fmt: skip
    return np.concatenate([step.rows for step in enlarged(engine, recipe, small, Ticket())])


def pictures(count: int, side: int, factor: int, spoiled: bool) -> Iterator[tuple[Pixels, Pixels]]:
    """Renders, and their low-resolution versions: box-filtered, or as a file that has been through something."""
    for seed in range(SEED, SEED + count):
        sharp = render(draw(seed), side)
        picture, small = Image.fromarray(sharp), side // factor
        if spoiled:
            yield sharp, np.asarray(degrade(picture, small, np.random.default_rng(seed)))
        else:
            yield sharp, np.asarray(picture.resize((small, small), Image.Resampling.BOX))


def compare(ways: Mapping[str, Enlarge], facts: Upsampler, referee: Judge, sharp: Pixels, small: Pixels) -> Compared:
    """Of every way to enlarge: PSNR, feature distance to the render, gradients at block borders, features of crops."""
    made = {name: enlarge(small) for name, enlarge in ways.items()}
    measures = {
        name: {
            PSNR: psnr(picture, sharp),
            FAR: distance(referee, picture, sharp, facts.block),
            BORDERS: borders(picture, facts.block, facts.factor),
        }
        for name, picture in made.items()
    }
    return Compared(measures, {name: seen(referee, p, facts.block) for name, p in {**made, RENDER: sharp}.items()})


@torch.no_grad()
def seen(referee: Judge, picture: Pixels, side: int) -> Array:
    """The judge's pooled features of every crop."""
    return referee.features(torch.from_numpy(crops(picture, side)).movedim(-1, 1) / 127.5 - 1).double().numpy()


def psnr(a: Pixels, b: Pixels) -> float:
    return float(-10 * np.log10(np.square((a.astype(np.float64) - b) / 255).mean()))


@torch.no_grad()
def distance(referee: Judge, a: Pixels, b: Pixels, side: int) -> float:
    """Mean over crops of side x side, at full resolution, of the judge's channel-normalised features."""
    one, other = (torch.from_numpy(crops(p, side)).movedim(-1, 1) / 127.5 - 1 for p in (a, b))
    return float(perceptual_loss(referee, one, other))


def crops(picture: Pixels, side: int) -> Pixels:
    """[h, w, 3] -> [crops, side, side, 3]."""
    rows, columns = (length // side for length in picture.shape[:2])
    tiled = picture.reshape(rows, side, columns, side, 3).swapaxes(1, 2)
    return tiled.reshape(-1, side, side, 3)


def borders(picture: Pixels, block: int, factor: int) -> float:
    """Mean step between pixels on two sides of a block's border, over that between low-resolution pixels elsewhere.

    An enlargement's steps depend on where they lie between those: only its own kind may be compared with a border.
    """
    border, inside = [], []
    for axis in (0, 1):
        steps = np.abs(np.diff(picture.astype(np.float64), axis=axis)).mean((1 - axis, 2))
        place = np.arange(1, len(steps) + 1)
        border.append(steps[place % block == 0])
        inside.append(steps[(place % factor == 0) & (place % block != 0)])
    return float(np.concatenate(border).mean() / np.concatenate(inside).mean())


def sheet(ways: Mapping[str, Enlarge], shown: list[tuple[Pixels, Pixels]], target: Path) -> Path:
    """Crops by Lanczos, by the network and of the render, a line for each picture: where the render has most detail."""
    lines = []
    for sharp, small in shown:
        row, column = detail(sharp)
        cut = np.s_[row : row + CUT, column : column + CUT]
        made = (ways[name](small)[cut] for name in ("Lanczos", "network"))
        lines.append(np.concatenate([*made, sharp[cut]], 1))
    Image.fromarray(np.concatenate(lines)).save(target)
    return target


def detail(sharp: Pixels) -> tuple[int, int]:
    """Top left of the crop with the most gradient."""
    grey = sharp.astype(np.float64).mean(2)
    energy = np.abs(np.diff(grey, axis=0))[:, :-1] + np.abs(np.diff(grey, axis=1))[:-1]
    total = np.pad(energy.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    inside = total[CUT:, CUT:] - total[:-CUT, CUT:] - total[CUT:, :-CUT] + total[:-CUT, :-CUT]
    row, column = np.unravel_index(int(inside.argmax()), inside.shape)
    return int(row), int(column)


if __name__ == "__main__":
    main()
