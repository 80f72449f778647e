"""What a block costs, a picture holds in memory, and tiles would spoil: python -m benchmarks.upscaling COMMAND."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any, get_args

import click
import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import upscaling_tiles
from benchmarks.ceiling import gemm_peak
from benchmarks.serving.processes import server
from benchmarks.timing import interleave
from benchmarks.upscaling_beside import latencies
from benchmarks.upscaling_memory import MIB, Point, at_once, enlargement, measured, plot, slope
from export import upsampler
from export.weights import rebuild
from service.engines.contract import Engine, Surroundings, Ticket, Upsampler
from service.engines.dispatch import Gate
from service.engines.embedded import EmbeddedEngine
from service.engines.runtimes import open_runtime
from service.enlargement import final
from service.pipeline import generate
from service.png import png
from service.recipe import Overrides, load_presets, resolve
from service.settings import Settings
from service.upscale import enlarged
from service.upscaling.options import Method, Upscaling
from training import config, upsampling
from training.autoencoder import Pca
from training.upsampler import Upsampler as Net

MODEL = "postcard"
PCA = Path(config.__file__).with_name("encoder_pca.npz")
PROMPT = "a red ball in the desert at sunset"
MARGINS = (0, 4, 16)  # cells around a tile
ROWS = (1, 2, 4, 8)
HEIGHTS = (1024, 2048, 4096, 8192)
WHOLE = 512  # pixels of width, where all blocks are taken at once
GOALS = {"256 -> 1024": 4, "1024 -> 4096": 60, "prompt -> 4096": 75}  # seconds on two cores


def open_engine() -> EmbeddedEngine:
    """The embedded engine on the shipped models."""
    settings = Settings()
    return EmbeddedEngine(settings.model_repository, open_runtime(settings))


def facts_of(engine: Engine) -> Upsampler:
    """The shipped upsampler's."""
    facts = engine.models[MODEL].upsampler
    assert facts is not None
    return facts


def gflop(net: Net) -> float:
    """Of one evaluation of one block, two for a multiplication and its addition."""
    example = upsampler.Upsampler(net, "fp32").example(1, 1, 1)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(*example)
    return float(counter.get_total_flops() / 1e9)


def milliseconds(engine: EmbeddedEngine, net: Net, rounds: int) -> dict[str, float]:
    """Median of one block evaluation in calls of several rows."""
    rng, s = np.random.default_rng(0), net.sizes
    base, lowres, small = (rng.random((3, side, side), np.float32) for side in (s.block, s.window, s.thumbnail))
    cache = rng.random(s.cache, np.float32).astype(np.float16)
    around = Surroundings(base, lowres, small, (cache, cache, cache))

    def call(rows: int) -> float:
        x, sigma = np.repeat(base[None], rows, 0), np.full(rows, 0.3, np.float32)
        start = time.perf_counter()
        engine.upsample(MODEL, x, sigma, [around] * rows, Ticket())
        return (time.perf_counter() - start) / rows * 1000

    tasks = {f"{rows} a call": lambda _, rows=rows: call(rows) for rows in ROWS}
    for task in tasks.values():  # asks for the buckets, which are compiled in the background
        task(0)
    time.sleep(10)
    return {name: median(values) for name, values in interleave(tasks, rounds).items()}


def from_prompt(engine: Engine) -> None:
    """A default picture, sixteen times enlarged, as a file that goes nowhere."""
    wish = Overrides.parse({"model": MODEL, "prompt": PROMPT, "seed": 0, "upscale": {"factor": 16}})
    recipe = resolve(wish, load_presets(), engine.models, engine.name, engine.precision)
    steps = enlarged(engine, recipe, generate(engine, recipe, Ticket()).pixels, Ticket())
    for _ in png(final(recipe), (step.rows for step in steps if len(step.rows)), None):
        pass


@click.group()
def main() -> None:
    """Measure the shipped upsampler."""


@main.command()
@click.option("--rounds", default=15, show_default=True, help="Of block evaluations.")
def speed(rounds: int) -> None:
    """Time block evaluations, then whole enlargements by the model's own schedule."""
    net = upsampling.published(config.load(upsampling.RECIPE), MODEL).eval()
    work, peak = gflop(net), gemm_peak("bf16")
    click.echo(f"{work:.2f} GFLOP an evaluation; the cores reach {peak:.0f} GFLOP/s: {1000 * work / peak:.1f} ms")
    engine = open_engine()
    for name, value in milliseconds(engine, net, rounds).items():
        click.echo(f"{name}: {value:.1f} ms a block")
    gate, sigmas = Gate(engine, in_flight=1), facts_of(engine).sigmas
    network = Upscaling(factor=4, method="network", sampler="euler", sigmas=sigmas)
    runs: dict[str, Callable[[], None]] = {
        "256 -> 1024": enlargement(gate, MODEL, network, 1024, 1024),
        "1024 -> 4096": enlargement(gate, MODEL, network, 4096, 4096),
        "prompt -> 4096": partial(from_prompt, gate),
    }
    runs["256 -> 1024"]()  # warms up
    for name, run in runs.items():
        start = time.perf_counter()
        run()
        click.echo(f"{name}: {time.perf_counter() - start:.1f} s; goal {GOALS[name]}; sigmas {sigmas}")
    engine.close()


@main.command()
@click.option("--width", default=4096, show_default=True, help="Of the file.")
@click.option("--plot", "file", type=click.Path(path_type=Path), help="Picture to write.")
def memory(width: int, file: Path | None) -> None:
    """Resident memory above the idle process at four heights, and what a row more costs."""
    engine = open_engine()
    gate, facts = Gate(engine, in_flight=1), facts_of(engine)
    ways = {
        "lanczos": Upscaling(factor=4, method="lanczos"),
        "network": Upscaling(factor=4, method="network", sampler="euler", sigmas=facts.sigmas),
    }
    series = {
        f"{name}, {width} wide": told(measured(partial(enlargement, gate, MODEL, how, width), HEIGHTS), width)
        for name, how in ways.items()
    }
    engine.close()
    sizes, count = upsampling.build(config.load(upsampling.RECIPE)).sizes, width / facts.block**2
    # keys and values in half precision at every evaluation, x in single
    each = np.prod(sizes.cache) * 2 * (len(facts.sigmas) - 1) + 3 * sizes.block**2 * 4
    computed = [Point(height, height * count * each / MIB, 0.0) for height in HEIGHTS]
    click.echo(f"keys, values and x of all blocks at once, computed: {slope(computed):.0f} MiB for 1,024 rows")
    series[f"keys, values and x of all blocks, {width} wide (computed)"] = computed
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
        whole = list(pool.map(at_once, [WHOLE] * len(HEIGHTS), [height // 2 for height in HEIGHTS]))
    series[f"all blocks at once by torch, {WHOLE} wide"] = told(whole, WHOLE)
    if file:
        plot(series, file)


@main.command()
@click.option("--requests", default=10, show_default=True, help="Of each kind in a round.")
@click.option("--rounds", default=6, show_default=True)
def beside(requests: int, rounds: int) -> None:
    """Send default requests alone, then while one picture of 4096 x 4096 is made."""
    queries = {f"beside 4096 x 4096, {method}": f"factor=16&method={method}" for method in get_args(Method)}
    with server("service", "serve", port=0) as running:
        found = latencies(running.address, queries, requests, rounds)
    alone = np.percentile(found["alone"], [50, 95])
    for name, seconds in found.items():
        p50, p95 = np.percentile(seconds, [50, 95])
        times = f"{p50 / alone[0]:.2f} and {p95 / alone[1]:.2f} times"
        click.echo(f"{name}: {len(seconds)} requests, median {p50:.3f} s, p95 {p95:.3f} s; {times}")


@main.command()
@click.option("--factor", default=4, show_default=True, help="By how much larger the latent is than the model's own.")
@click.option("--tile", default=32, show_default=True, help="Cells of the latent along a tile.")
def tiles(factor: int, tile: int) -> None:
    """Decode a large latent in tiles, and compare with the whole."""
    vae = rebuild(Settings().model_repository, MODEL).vae.eval().requires_grad_(False)
    engine = open_engine()
    z = upscaling_tiles.latent(engine, MODEL, Pca.load(PCA), factor)
    engine.close()
    compared("as it is", vae, z, tile)
    with upscaling_tiles.frozen(vae, z):
        compared("with the whole's mean and variance in every norm", vae, z, tile)


def compared(name: str, vae: Any, z: torch.Tensor, tile: int) -> None:
    """What a pixel depends on, and the errors of tiles, printed."""
    click.echo(f"{name}: a pixel depends on {upscaling_tiles.reach(vae, z)} of {z.shape[-1]} columns")
    for margin, mean, most in upscaling_tiles.errors(vae, z, tile, MARGINS):
        click.echo(f"  {tile} cells and {margin} around: {mean:.2f} levels of 255 in the mean, {most} at most")


def told(points: Sequence[Point], width: int) -> Sequence[Point]:
    """The points of one way to enlarge, printed."""
    for height, mib, seconds in points:
        speed = width * height / seconds / 1e6
        click.echo(f"{width} x {height}: {mib:.1f} MiB above idle, {seconds:.1f} s, {speed:.2f} Mpixel/s")
    click.echo(f"slope {slope(points):.2f} MiB for 1,024 rows")
    return points


if __name__ == "__main__":
    main()
