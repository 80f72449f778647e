"""Is the upsampler better than a kernel? Held-out renders made small, enlarged again and held against themselves.

    python -m benchmarks.upscaling_quality [--pictures 24] [--sheet PNG]

Needs the judge (python -m training judge) for its features. Prints means with 95 % intervals over pictures.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import click
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from service.engines.contract import Engine, Ticket
from service.engines.factory import open_engine
from service.enlargement import Enlargement, settled
from service.settings import Settings
from service.upscale import enlarged
from service.upscaling.options import Upscaling
from training import config as configuration
from training import judge
from training.degradations import degrade
from training.judge import Judge
from training.losses import perceptual_loss
from training.measures import estimate
from training.world import draw, render

SEED = 50_000_000  # far from those of every data set
CUT = 160  # pixels along a crop of the sheet
Pixels = NDArray[np.uint8]
Enlarge = Callable[[Pixels], Pixels]
Row = dict[str, float]


@click.command()
@click.option("--model", default="postcard", show_default=True)
@click.option("--pictures", "count", type=click.IntRange(min=2), default=24, show_default=True)
@click.option("--side", default=1024, show_default=True, help="Of the renders.")
@click.option("--sheet", "file", type=click.Path(path_type=Path), help="Crops of some of them, side by side.")
@click.option("--config", type=click.Path(exists=True, path_type=Path), default=configuration.DEFAULT)
def main(model: str, count: int, side: int, file: Path | None, config: Path) -> None:
    """Enlarge by every way and print what it costs in fidelity and gives in detail."""
    settings = configuration.load(config)
    if not judge.path(settings).exists():
        raise click.ClickException(f"{judge.path(settings)} is missing: train the judge (python -m training judge)")
    engine, referee = open_engine(Settings(model_repository=settings.paths.repository)), judge.load(settings)
    facts = engine.models[model].upsampler
    if facts is None:
        raise click.ClickException(f"{model} has no upsampler")
    ways = {
        "Lanczos": partial(enlarge, engine, model, "lanczos"),
        "network": partial(enlarge, engine, model, "network"),
    }
    for spoiled in (False, True):
        click.echo("made small, and through blur, noise or JPEG" if spoiled else "made small")
        pairs = list(pictures(count, side, facts.factor, spoiled))
        rows = [compare(ways, facts.block, referee, *pair) for pair in pairs]
        for line in told(rows):
            click.echo("  " + line)
        if file and not spoiled:
            click.echo(f"  {' | '.join(ways)} | render: {sheet(ways, pairs[:6], file)}")


def told(rows: list[dict[str, Row]]) -> Iterator[str]:
    """A line for each measure of each way, and the differences and ratios that the goals speak of."""
    for name in rows[0]:
        for measure in rows[0][name]:
            yield f"{name:8s} {measure:28s} {estimate(np.array([row[name][measure] for row in rows]))}"
    change = np.array([row["network"]["PSNR, dB"] - row["Lanczos"]["PSNR, dB"] for row in rows])
    far = {name: np.mean([row[name]["feature distance"] for row in rows]) for name in rows[0]}
    yield f"network's PSNR less Lanczos': {estimate(change)} dB; goal >= -0.5"
    yield f"network's feature distance over Lanczos': {far['network'] / far['Lanczos']:.3f}; goal <= 0.7"


def enlarge(engine: Engine, model: str, method: str, small: Pixels) -> Pixels:
    """As the service does it."""
    facts = engine.models[model]
    assert facts.upsampler is not None
    height, width, _ = small.shape
    wish = Upscaling.model_validate({"factor": facts.upsampler.factor, "method": method})
    recipe = Enlargement(
        model=model, model_digest=facts.digest, width=width, height=height, seed=0,
        upscale=settled(wish, facts, width, height, np.inf), engine=engine.name, precision=engine.precision,
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


def compare(ways: Mapping[str, Enlarge], block: int, referee: Judge, sharp: Pixels, small: Pixels) -> dict[str, Row]:
    """Of every way to enlarge: PSNR, feature distance to the render, and what block borders add to gradients."""
    made = {name: enlarge(small) for name, enlarge in ways.items()}
    return {
        name: {
            "PSNR, dB": psnr(picture, sharp),
            "feature distance": distance(referee, picture, sharp, block),
            "gradient at borders / inside": borders(picture, block) / borders(sharp, block),
        }
        for name, picture in made.items()
    }


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


def borders(picture: Pixels, block: int) -> float:
    """Mean step between pixels on two sides of a block's border, over the mean of all others."""
    shares = []
    for axis in (0, 1):
        steps = np.abs(np.diff(picture.astype(np.float64), axis=axis)).mean((1 - axis, 2))
        border = np.arange(1, len(steps) + 1) % block == 0
        shares.append(steps[border].mean() / steps[~border].mean())
    return float(np.mean(shares))


def sheet(ways: Mapping[str, Enlarge], shown: list[tuple[Pixels, Pixels]], target: Path) -> Path:
    """The same crops by every way, then the render, a line for each picture: where the render has most detail."""
    lines = []
    for sharp, small in shown:
        row, column = detail(sharp)
        cut = np.s_[row : row + CUT, column : column + CUT]
        lines.append(np.concatenate([*(enlarge(small)[cut] for enlarge in ways.values()), sharp[cut]], 1))
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
