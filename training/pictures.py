"""Pictures about the model: contact sheets, the training curve, the Pareto front of presets."""

import json
from collections.abc import Collection, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.measures import Estimate

PROMPTS = (
    "a red ball on the beach at dusk",
    "sunset over the sea, a crimson sphere in front",
    "snow-capped mountains at dawn",
    "a pine forest at night",
    "sand dunes under a blue sky",
    "a meadow on a sunny day",
    "a blue cube in the snow, daybreak",
    "a glossy green ring in front of a lilac backdrop",
    "a yellow cone on a wooden floor in a studio, charcoal background",
    "a purple cylinder in the desert at noon",
    "a turquoise donut in a meadow in the early morning",
    "a white pillar in the woods under the moon",
    "an orange cube and a blue ball on a checkered floor in a studio, grey background",
    "a pink cone next to a black sphere against a mint wall",
    "the ocean in the moonlight",
    "snowy hills at sunset",
)


def tile(pictures: NDArray[np.uint8], columns: int) -> Image.Image:
    """Arrange (n, h, w, 3) in rows of `columns`."""
    n, h, w, _ = pictures.shape
    rows = -(-n // columns)
    padded = np.full((rows * columns, h, w, 3), 255, np.uint8)
    padded[:n] = pictures
    return Image.fromarray(padded.reshape(rows, columns, h, w, 3).swapaxes(1, 2).reshape(rows * h, columns * w, 3))


def sheet(config: Any, prompts: list[str], target: Path, columns: int = 4) -> Path:
    """Contact sheet of uncurated pictures as the service draws them: prompt i with seed i."""
    from training.served import Served

    tile(Served(config).draw(prompts, range(len(prompts))), columns).save(target)
    return target


def world_sheet(config: Any, count: int, target: Path, columns: int = 7) -> Path:
    """Contact sheet of renders."""
    from training.data import render_seeds

    start = config.world.evaluation_seed
    tile(render_seeds(range(start, start + count), config.world.size), columns).save(target)
    return target


def curve(config: Any, target: Path) -> Path:
    """Loss and learning rate of the UNet against samples seen."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [json.loads(line) for line in (config.paths.runs / "unet.jsonl").read_text().splitlines()]
    samples = [row["samples"] / 1000 for row in rows]
    figure, axis = pyplot.subplots(figsize=(7, 4), layout="constrained")
    axis.plot(samples, [row["loss"] for row in rows], color="#1f6f8b")
    axis.set(
        xlabel="thousand samples", ylabel="v-prediction loss", yscale="log", title="Postcard: training of the UNet"
    )
    rate = axis.twinx()
    rate.plot(samples, [row["rate"] for row in rows], color="#d9822b", linewidth=1)
    rate.set(ylabel="learning rate")
    figure.savefig(target, dpi=120)
    return target


def pareto(rows: Mapping[str, Mapping[str, Estimate]], front: Collection[str], target: Path) -> Path:
    """Consistency, diversity and realism against each other; filled: no other is better in all three."""
    from matplotlib.figure import Figure

    labels = {"accuracy": "attribute accuracy", "diversity": "diversity", "frechet": "Fréchet distance"}
    figure = Figure(figsize=(12, 4), layout="constrained")
    axes = figure.subplots(1, 3)
    for axis, (x, y) in zip(axes, combinations(labels, 2), strict=True):
        for number, (name, row) in enumerate(rows.items()):
            errors = [[[e.mean - e.low], [e.high - e.mean]] for e in (row[x], row[y])]
            axis.errorbar(
                row[x].mean, row[y].mean, errors[1], errors[0], fmt="o", color=f"C{number % 10}", label=name,
                linewidth=1, markerfacecolor=f"C{number % 10}" if name in front else "white",
            )  # fmt: skip
        axis.set(xlabel=labels[x], ylabel=labels[y])
    axes[-1].legend(fontsize="small")
    figure.savefig(target, dpi=90)
    return target
