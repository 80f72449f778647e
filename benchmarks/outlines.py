"""Are silhouettes sharp? Balls in front of plain walls, held against the ellipse that a ball is.

    python -m benchmarks.outlines [--preset NAME]... [--pictures 100] [--sheet PNG]

Prompts are captions of held-out scenes, of which the renders are measured too: what a silhouette found by its hue
deviates there is the limit. Prints medians with 95 % intervals over the pictures, and where it found no ball.
"""

from itertools import count, islice
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from scipy.stats import bootstrap

from service.errors import InvalidRequest
from training import config as configuration
from training.served import Served
from training.world import Scene, captions, draw, render

SEED = 55_000_000  # far from those of every data set
HUES = {"green": 120.0, "blue": 225.0, "purple": 280.0}  # degrees; no floor or shadow has them
LILAC = "lilac"  # a wall of a ball's hue
TOLERANCE = 28.0  # degrees
CHROMA = 0.25  # largest channel minus smallest, of 1
SMALLEST = 400  # pixels
Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]


@click.command()
@click.option("--preset", "presets", multiple=True, help="Repeat to compare; default the model's.")
@click.option("--pictures", "number", type=click.IntRange(min=4), default=100, show_default=True, help="Of each.")
@click.option("--sheet", "file", type=click.Path(path_type=Path), help="The first twelve of each, row by row.")
@click.option("--config", type=click.Path(exists=True, path_type=Path), default=configuration.DEFAULT)
def main(presets: tuple[str, ...], number: int, file: Path | None, config: Path) -> None:
    """Draw, measure and print."""
    settings = configuration.load(config)
    served, scenes = Served(settings), list(islice(filter(plain, map(draw, count(SEED))), number))
    presets = presets or (served.preset,)
    try:
        for preset in presets:
            served.recipe(preset, "", 0)  # before the long work
    except InvalidRequest as error:
        raise click.UsageError(str(error)) from error
    size, prompts = settings.world.size, [captions(scene, 1)[0] for scene in scenes]
    rows = {"renders": np.stack([render(scene, size) for scene in scenes])}
    for preset in presets:
        rows[preset] = served.draw(prompts, [scene.seed for scene in scenes], preset)
    click.echo(f"{'':16s}  deviation of the silhouette  no ball found, of {number}")
    for name, pictures in rows.items():
        found = [silhouette(*pair) for pair in zip(pictures, (s.solids[0].colour for s in scenes), strict=True)]
        values = np.array([deviation(mask) for mask in found if mask is not None])
        click.echo(f"{name:16s}  {spread(values):27s}  {number - len(values)}")
    if file:
        Image.fromarray(np.concatenate([np.concatenate(list(made[:12]), 1) for made in rows.values()])).save(file)


def spread(values: NDArray[np.float64]) -> str:
    """The median with its percentile bootstrap interval, of at least two."""
    if len(values) < 2:
        return "-"
    interval = bootstrap((values,), np.median, method="percentile", rng=0).confidence_interval
    return f"{np.median(values):.4f} [{interval.low:.4f}, {interval.high:.4f}]"


def plain(scene: Scene) -> bool:
    """One flawless ball in a studio, of a hue that nothing else has."""
    return (
        scene.quality.good
        and [(s.kind, s.colour in HUES) for s in scene.solids] == [("sphere", True)]
        and scene.scene == "studio"
        and scene.backdrop != LILAC
    )


def silhouette(picture: Pixels, colour: str) -> Mask | None:
    """The largest connected area of a colour's hue in a picture (h, w, 3), its holes filled; None if there is none."""
    chroma, hue = _chroma_and_hue(picture)
    near = np.abs((hue - HUES[colour] + 180) % 360 - 180) < TOLERANCE
    areas, _ = ndimage.label(ndimage.binary_opening(near & (chroma > CHROMA)))
    sizes = np.bincount(areas.ravel())[1:]
    if not sizes.size or sizes.max() < SMALLEST:
        return None
    return np.asarray(ndimage.binary_fill_holes(areas == 1 + sizes.argmax()))


def _chroma_and_hue(picture: Pixels) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of 1, and in degrees (Smith 1978)."""
    unit = picture / 255.0
    r, g, b = np.moveaxis(unit, -1, 0)
    chroma = np.ptp(unit, axis=-1)
    safe = np.maximum(chroma, 1e-9)
    sectors = [(g - b) / safe % 6, (b - r) / safe + 2, (r - g) / safe + 4]
    return chroma, 60 * np.choose(unit.argmax(-1), sectors)


def deviation(mask: Mask) -> float:
    """Area that only the silhouette or only the ellipse of its first and second moments covers, over its area."""
    points = np.argwhere(mask)
    centre, inverse = points.mean(0), np.linalg.inv(np.cov(points.T))
    away = np.indices(mask.shape).transpose(1, 2, 0) - centre
    ellipse = np.einsum("hwi,ij,hwj->hw", away, inverse, away) <= 4  # an ellipse's radii are twice its deviations
    return float((ellipse ^ mask).sum() / mask.sum())


if __name__ == "__main__":
    main()
