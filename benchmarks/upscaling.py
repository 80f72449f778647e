"""What a block costs and what a picture holds in memory: python -m benchmarks.upscaling. Weights are random."""

import resource
import shutil
import tempfile
import time
from pathlib import Path
from statistics import median

import click
import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.ceiling import gemm_peak
from benchmarks.timing import interleave
from export import upsampler
from export.repository import add
from service.engines.contract import Surroundings, Ticket, Upsampler
from service.engines.dispatch import Gate
from service.engines.embedded import EmbeddedEngine
from service.engines.runtimes import open_runtime
from service.settings import Settings
from service.upscale import IN_FLIGHT, Upscale, upscale
from training import config, upsampling
from training.upsampler import Upsampler as Net

MODEL = "postcard"
SIGMAS = (1.0, 0.3, 0.1, 0.03, 0.0)
ROWS = (1, 2, 4, 8)


def gflop(net: Net) -> float:
    """Of one evaluation of one block, two for a multiplication and its addition."""
    example = upsampler.Upsampler(net, "fp32").example(1, 1, 1)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        net(*example)
    return float(counter.get_total_flops() / 1e9)


def open_engine(net: Net, folder: Path) -> EmbeddedEngine:
    """The shipped model with this upsampler beside it."""
    settings = Settings(model_repository=folder / "repository", cache_dir=folder / "cache")
    shutil.copytree(Settings().model_repository, settings.model_repository)
    s = net.sizes
    facts = Upsampler(block=s.block, factor=s.factor, thumbnail=s.thumbnail, sigma_min=SIGMAS[-2], sigma_max=SIGMAS[0])
    add(upsampler.Upsampler(net), settings.model_repository, MODEL, upsampler=facts)
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


@click.command()
@click.option("--side", default=256, show_default=True, help="Of the low-resolution picture.")
@click.option("--factor", default=4, show_default=True)
@click.option("--rounds", default=15, show_default=True)
def main(side: int, factor: int, rounds: int) -> None:
    """Time block evaluations, then enlarge one picture."""
    net = upsampling.build(config.load(upsampling.RECIPE)).eval()
    work, peak = gflop(net), gemm_peak("bf16")
    click.echo(f"{work:.2f} GFLOP an evaluation; the cores reach {peak:.0f} GFLOP/s: {1000 * work / peak:.1f} ms")
    with tempfile.TemporaryDirectory() as folder:
        engine = open_engine(net, Path(folder))
        for name, value in milliseconds(engine, net, rounds).items():
            click.echo(f"{name}: {value:.1f} ms a block")
        picture = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
        before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
        rows = blocks = 0
        for step in upscale(Gate(engine, in_flight=1), Upscale(MODEL, factor, "euler", SIGMAS, 0), picture, Ticket()):
            rows, blocks = rows + len(step.rows), step.total
        seconds = time.perf_counter() - start
        more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        click.echo(f"{rows} x {rows}: {blocks} blocks of {len(SIGMAS) - 1} evaluations in {seconds:.1f} s")
        held = (rows // net.sizes.block + 2 * IN_FLIGHT) * (len(SIGMAS) - 1) * np.prod(net.sizes.cache) * 2 / 2**20
        click.echo(f"{more:.0f} MiB more than before, of which keys and values at most {held:.0f} MiB")
        engine.close()


if __name__ == "__main__":
    main()
