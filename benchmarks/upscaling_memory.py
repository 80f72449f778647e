"""Memory of enlarging at one width and growing heights, the file streamed away: its slope is what a row costs."""

import gc
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from service.engines.contract import Engine, Ticket
from service.enlargement import Enlargement, final
from service.png import png
from service.upscale import enlarged
from service.upscaling.options import Upscaling
from training import config, upsampling
from training.upsampler import Upsampler

MIB = 2**20
SETTLE = 10  # seconds in which the engine compiles, in the background, what it was asked for


class Point(NamedTuple):
    """One enlargement."""

    height: int  # of the file
    mib: float  # the highest resident memory above that of the idle process
    seconds: float


def enlargement(engine: Engine, model: str, how: Upscaling, width: int, height: int) -> Callable[[], None]:
    """The enlargement of random pixels to this size, whose file goes nowhere."""
    facts = {"model": model, "model_digest": "", "engine": engine.name, "precision": engine.precision}
    recipe = Enlargement(**facts, width=width // how.factor, height=height // how.factor, seed=0, upscale=how)

    def run() -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (recipe.height, recipe.width, 3), np.uint8)
        steps = enlarged(engine, recipe, pixels, Ticket())
        for _ in png(final(recipe), (step.rows for step in steps if len(step.rows)), None):
            pass

    return run


def measured(run: Callable[[int], Callable[[], None]], heights: Sequence[int]) -> list[Point]:
    """The smallest height to warm up, then every height; idle is read once, as the allocator gives back late."""
    run(heights[0])()
    time.sleep(SETTLE)
    run(heights[0])()
    gc.collect()
    idle, points = _kib("VmRSS"), []
    for height in heights:
        gc.collect()
        work = run(height)
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): the peak starts again from here
        start = time.perf_counter()
        work()
        points.append(Point(height, (_kib("VmHWM") - idle) / 1024, time.perf_counter() - start))
    return points


def at_once(width: int, height: int) -> Point:
    """One evaluation of all blocks of a picture by torch in fp32, its attention under the mask of blocks.

    Meant for a process of its own.
    """
    torch.set_num_threads(1)
    net = upsampling.build(config.load(upsampling.RECIPE)).eval()
    _picture(net, net.sizes.block, net.sizes.block)
    idle, start = _kib("VmRSS"), time.perf_counter()
    Path("/proc/self/clear_refs").write_text("5")
    _picture(net, width, height)
    return Point(height, (_kib("VmHWM") - idle) / 1024, time.perf_counter() - start)


@torch.no_grad()
def _picture(net: Upsampler, width: int, height: int) -> None:
    s, generator = net.sizes, torch.Generator().manual_seed(0)
    margin = 2 * s.block
    shapes = (height, width), ((height + margin) // s.factor, (width + margin) // s.factor), (s.thumbnail, s.thumbnail)
    base, lowres, thumbnail = (torch.rand((1, 3, *shape), generator=generator) for shape in shapes)
    net.picture(base, torch.full((1,), 0.3), base, lowres, thumbnail)


def slope(points: Sequence[Point]) -> float:
    """MiB for 1,024 rows more."""
    return float(np.polyfit([point.height for point in points], [point.mib for point in points], 1)[0] * 1024)


def plot(series: dict[str, Sequence[Point]], file: Path) -> None:
    """Memory over height."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for label, points in series.items():
        axes.plot([point.height for point in points], [point.mib for point in points], "o-", label=label)
    axes.set(xlabel="height of the file, pixels", ylabel="MiB above the idle process")
    axes.set_yscale("symlog", linthresh=10)
    figure.legend(loc="outside lower center", ncols=2, fontsize="small")
    axes.grid(alpha=0.3)
    figure.savefig(file, dpi=110)
    pyplot.close(figure)


def _kib(field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.M)
    assert found
    return int(found[1])
