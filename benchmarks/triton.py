"""Triton beside the embedded engine: what the hop to its server costs, and what is left of the throughput.

    python -m benchmarks.triton [--rounds 7]

The server of the wheel, the real backend, a network that returns its input ("null") at the payloads of SDXL and of
Postcard, and Postcard itself. A step is one call of two rows (guidance).
"""

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.null import PAYLOADS, add_null_models, denoiser_call
from benchmarks.timing import interleave, ratio, together
from export.triton_server import TritonServer
from service.engines.contract import Engine, Ticket
from service.engines.factory import open_engine
from service.pipeline import generate
from service.recipe import Overrides, load_presets, resolve
from service.settings import ROOT, Settings

STEPS = 10
CALLS = 100  # in a row, of each kind in every round
CONCURRENCIES = (1, 8, 32, 64)
PICTURES = (1, 8, 16)  # at once
Call = Callable[[], object]


@click.command()
@click.option("--rounds", default=7, show_default=True, help="interleaved rounds; medians are quoted")
def main(rounds: int) -> None:
    """Print the tables."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        repository = folder / "models"
        shutil.copytree(ROOT / "model_repository", repository)
        add_null_models(repository)
        server = stack.enter_context(TritonServer(repository))
        common: dict[str, Any] = {
            "model_repository": repository,
            "cache_dir": folder / "cache",
            "max_concurrency": max(CONCURRENCIES),
        }
        embedded, triton = (
            open_engine(Settings(engine=name, triton_url=server.url, **common)) for name in ("embedded", "triton")
        )
        for engine in (embedded, triton):
            stack.callback(engine.close)
        hop(triton, embedded, rounds)
        steps(triton, rounds)
        throughput(embedded, triton, rounds)


def hop(triton: Engine, embedded: Engine, rounds: int) -> None:
    """Milliseconds of one step of a network that does nothing, nobody else there; the hop is what Triton adds."""
    ways = {
        f"{name} | {way}": denoiser_call(engine, name, shared=way != "by value")
        for name in PAYLOADS
        for way, engine in (("embedded", embedded), ("shared memory", triton), ("by value", triton))
    }
    samples: dict[str, list[float]] = {way: [] for way in ways}
    interleave({way: partial(timed, call, samples[way]) for way, call in ways.items()}, rounds)
    click.echo("\n| payload of a step | conditioning | p50, ms | p99, ms | hop, p50, ms |\n|---|---|---|---|---|")
    base = 0.0
    for way, found in samples.items():
        p50, p99 = np.percentile(found[CALLS:], (50, 99)) * 1e3  # without the warm-up
        base = p50 if "embedded" in way else base
        click.echo(f"| {way} | {p50:.2f} | {p99:.2f} | {p50 - base:.2f} |")


def timed(call: Call, samples: list[float], _: int) -> float:
    """Make CALLS calls and keep the seconds of each."""
    for _ in range(CALLS):
        start = time.perf_counter()
        call()
        samples.append(time.perf_counter() - start)
    return sum(samples[-CALLS:])


def steps(engine: Engine, rounds: int) -> None:
    """Steps per second of the null network."""
    tasks = {
        f"{name} | {count}": partial(stream, denoiser_call(engine, name, shared=True), count)
        for name in PAYLOADS
        for count in CONCURRENCIES
    }
    click.echo("\n| null network | at once | steps/s |\n|---|---|---|")
    for label, found in interleave(tasks, rounds).items():
        click.echo(f"| {label} | {1 / statistics.median(found):.0f} |")


def stream(call: Call, concurrency: int, _: int) -> float:
    """Wall time per step while so many threads make calls."""
    each = max(1, 4 * CALLS // concurrency)
    return together(lambda _: [call() for _ in range(each)], 0, concurrency) / each


def throughput(embedded: Engine, triton: Engine, rounds: int) -> None:
    """Postcard's pictures per second on both engines of this machine."""
    click.echo("\n| Postcard, pictures at once | embedded, /s | Triton, /s | Triton / embedded |\n|---|---|---|---|")
    for count in PICTURES:
        tasks = {engine.name: partial(pictures, engine, count) for engine in (embedded, triton)}
        found = interleave(tasks, rounds)
        here, there = (1 / statistics.median(found[engine.name]) for engine in (embedded, triton))
        click.echo(f"| {count} | {here:.1f} | {there:.1f} | {ratio(found['embedded'], found['triton']):.2f} |")


def pictures(engine: Engine, count: int, index: int) -> float:
    """Wall time per picture of so many at once; every prompt is new."""
    presets = load_presets()

    def draw(number: int) -> None:
        wanted = Overrides(model="postcard", prompt=f"picture {number}", seed=number, num_inference_steps=STEPS)
        generate(engine, resolve(wanted, presets, engine.models, engine.name, engine.precision), Ticket())

    return together(draw, 100 * index, count)


if __name__ == "__main__":
    main()
