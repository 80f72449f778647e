"""What a block costs, what a picture holds in memory, what tiles would spoil: python -m benchmarks.upscaling COMMAND.

The network's weights are random: neither time nor memory depends on them.
"""

import shutil
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any, get_args

import click
import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import upscaling_tiles
from benchmarks.ceiling import gemm_peak
from benchmarks.serving.processes import server
from benchmarks.timing import interleave
from benchmarks.upscaling_beside import latencies
from benchmarks.upscaling_memory import MIB, Point, at_once, enlargement, measured, plot, slope
from export import upsampler
from export.repository import add
from export.weights import rebuild
from service.engines.contract import Surroundings, Ticket, Upsampler
from service.engines.dispatch import Gate
from service.engines.embedded import EmbeddedEngine
from service.engines.runtimes import open_runtime
from service.settings import Settings
from service.upscale import Upscale, upscale
from service.upscaling.options import Method, Upscaling
from training import config, upsampling
from training.autoencoder import Pca
from training.upsampler import Upsampler as Net

MODEL = "postcard"
PCA = Path(config.__file__).with_name("encoder_pca.npz")
SIGMAS = (1.0, 0.3, 0.1, 0.03, 0.0)
MARGINS = (0, 4, 16)  # cells around a tile
ROWS = (1, 2, 4, 8)
HEIGHTS = (1024, 2048, 4096, 8192)


def gflop(net: Net) -> float:
    """Of one evaluation of one block, two for a multiplication and its addition."""
    example = upsampler.Upsampler(net, "fp32").example(1, 1, 1)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        net(*example)
    return float(counter.get_total_flops() / 1e9)


def equipped(net: Net, folder: Path) -> Settings:
    """The shipped model with this upsampler beside it."""
    settings = Settings(model_repository=folder / "repository", cache_dir=folder / "cache")
    shutil.copytree(Settings().model_repository, settings.model_repository)
    s = net.sizes
    facts = Upsampler(block=s.block, factor=s.factor, thumbnail=s.thumbnail, sigma_min=SIGMAS[-2], sigma_max=SIGMAS[0])
    add(upsampler.Upsampler(net), settings.model_repository, MODEL, upsampler=facts)
    return settings


def open_engine(net: Net, folder: Path) -> EmbeddedEngine:
    """The embedded engine on it."""
    settings = equipped(net, folder)
    return EmbeddedEngine(settings.model_repository, open_runtime(settings))


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


@click.group()
def main() -> None:
    """Measure the upsampler of Postcard's size."""


@main.command()
@click.option("--side", default=256, show_default=True, help="Of the low-resolution picture.")
@click.option("--factor", default=4, show_default=True)
@click.option("--rounds", default=15, show_default=True)
def speed(side: int, factor: int, rounds: int) -> None:
    """Time block evaluations, then enlarge one picture."""
    net = upsampling.build(config.load(upsampling.RECIPE)).eval()
    work, peak = gflop(net), gemm_peak("bf16")
    click.echo(f"{work:.2f} GFLOP an evaluation; the cores reach {peak:.0f} GFLOP/s: {1000 * work / peak:.1f} ms")
    with tempfile.TemporaryDirectory() as folder:
        engine = open_engine(net, Path(folder))
        for name, value in milliseconds(engine, net, rounds).items():
            click.echo(f"{name}: {value:.1f} ms a block")
        picture, start = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8), time.perf_counter()
        rows = blocks = 0
        for step in upscale(Gate(engine, in_flight=1), Upscale(MODEL, factor, "euler", SIGMAS, 0), picture, Ticket()):
            rows, blocks = rows + len(step.rows), step.total
        seconds = time.perf_counter() - start
        click.echo(f"{rows} x {rows}: {blocks} blocks of {len(SIGMAS) - 1} evaluations in {seconds:.1f} s")
        engine.close()


@main.command()
@click.option("--width", default=4096, show_default=True, help="Of the file, for Lanczos.")
@click.option("--network-width", default=512, show_default=True, help="Of the file, for the network, which is slow.")
@click.option("--plot", "file", type=click.Path(path_type=Path), help="Picture to write.")
def memory(width: int, network_width: int, file: Path | None) -> None:
    """Resident memory above the idle process at four heights, and what a row more costs."""
    net = upsampling.build(config.load(upsampling.RECIPE)).eval()
    plain, network = Upscaling(factor=4, method="lanczos"), Upscaling(factor=4, sampler="euler", sigmas=SIGMAS)
    with tempfile.TemporaryDirectory() as folder:
        engine = open_engine(net, Path(folder))
        gate = Gate(engine, in_flight=1)
        series = {
            f"lanczos, {width} wide": told(measured(partial(enlargement, gate, MODEL, plain, width), HEIGHTS), width),
            f"network, {network_width} wide": told(
                measured(partial(enlargement, gate, MODEL, network, network_width), [h // 2 for h in HEIGHTS]),
                network_width,
            ),
        }
        engine.close()
    # keys and values in half precision, x in single
    each = np.prod(net.sizes.cache) * 2 + 3 * net.sizes.block**2 * 4
    count = network_width / net.sizes.block**2
    computed = [Point(h // 2, h // 2 * count * each / MIB, 0.0) for h in HEIGHTS]
    click.echo(f"keys, values and x of all blocks at once, computed: {slope(computed):.0f} MiB for 1,024 rows")
    series[f"keys, values and x of all blocks, {network_width} wide (computed)"] = computed
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
        whole = list(pool.map(at_once, [network_width] * len(HEIGHTS), [h // 2 for h in HEIGHTS]))
    series[f"all blocks at once by torch, {network_width} wide"] = told(whole, network_width)
    if file:
        plot(series, file)


@main.command()
@click.option("--requests", default=10, show_default=True, help="Of each kind in a round.")
@click.option("--rounds", default=6, show_default=True)
def beside(requests: int, rounds: int) -> None:
    """Send default requests alone, then while one picture of 4096 x 4096 is made."""
    net = upsampling.build(config.load(upsampling.RECIPE)).eval()
    queries = {f"beside 4096 x 4096, {method}": f"factor=16&method={method}" for method in get_args(Method)}
    with tempfile.TemporaryDirectory() as folder:
        settings = equipped(net, Path(folder))
        given = {"model_repository": settings.model_repository, "cache_dir": settings.cache_dir, "port": 0}
        with server("service", "serve", **given) as running:
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
    engine = EmbeddedEngine(Settings().model_repository, open_runtime(Settings()))
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
