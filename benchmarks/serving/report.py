"""What the samples say: percentiles, attainment, goals beside their measurement, the plot."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from matplotlib.figure import Figure

from benchmarks.serving.load import Run, Sample

SCALES = (1.0, 1.25, 1.5, 2.0, 2.5, 3.0)  # deadline / latency of a lone request


@dataclass(frozen=True)
class Goal:
    """A figure and what it should be: at least or at most ``wanted``."""

    name: str
    measured: float
    wanted: float
    least: bool

    @property
    def met(self) -> bool:
        return self.measured >= self.wanted if self.least else self.measured <= self.wanted

    def __str__(self) -> str:
        sign = ">=" if self.least else "<="
        return f"{self.name}: {self.measured:.4g}, goal {sign} {self.wanted:g}: {'met' if self.met else 'MISSED'}"


def merged(runs: Sequence[Run]) -> Run:
    """The runs of all rounds as one."""
    samples = [sample for run in runs for sample in run.samples]
    return Run(samples, sum(run.seconds for run in runs), sum(run.cpu for run in runs))


def percentiles(values: Sequence[float], *wanted: float) -> list[float]:
    """Of these; NaN where there are none."""
    return [float(np.percentile(values, q)) if len(values) else float("nan") for q in wanted]


def attainment(samples: Sequence[Sample], unloaded: Mapping[str, float], scale: float) -> float:
    """The share of all requests that had their picture within ``scale`` times what a lone one of their kind takes."""
    return sum(sample.within(scale * unloaded[sample.kind]) for sample in samples) / max(len(samples), 1)


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print Markdown."""
    click.echo("\n| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for row in rows:
        cells = (cell if isinstance(cell, str) else f"{cell:.3g}" if abs(cell) < 100 else f"{cell:.0f}" for cell in row)
        click.echo("| " + " | ".join(cells) + " |")


def latencies(run: Run) -> list[float]:
    """Requests, pictures per second, latency p50, p95, p99, first preview p50, p95, cores of the generator."""
    done = [sample.latency for sample in run.samples if sample.status == 200]
    firsts = [sample.first - sample.due for sample in run.samples if sample.first is not None]
    figures = percentiles(done, 50, 95, 99) + percentiles(firsts, 50, 95)
    return [len(run.samples), run.rate, *figures, run.cpu / run.seconds]


LATENCIES = ("requests", "pictures/s", "p50, s", "p95, s", "p99, s", "preview p50, s", "p95, s", "generator, cores")


def plot(
    goodput: Mapping[str, Mapping[float, float]], attained: Mapping[str, Mapping[float, float]], file: Path
) -> None:
    """Goodput against load (in capacities), attainment against the scale of the deadline."""
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, points in goodput.items():
        left.plot(list(points), list(points.values()), marker="o", label=name)
    for name, points in attained.items():
        right.plot(list(points), list(points.values()), marker="o", label=name)
    left.set(xlabel="load / capacity", ylabel="pictures inside their deadline per second", ylim=(0, None))
    right.set(xlabel="deadline / latency of a lone request", ylabel="share inside it", ylim=(0, 1.02))
    for axes in (left, right):
        axes.legend(fontsize="small")
        axes.grid(alpha=0.3)
    figure.savefig(file, dpi=110)
