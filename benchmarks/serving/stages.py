"""Where the time of a lone request goes: the service's own parts of it beside what its caller waits."""

import operator
import statistics

from benchmarks.serving import report
from benchmarks.serving.client import Client
from benchmarks.serving.load import Kind, closed_loop, mix
from benchmarks.serving.processes import metric
from benchmarks.serving.report import Goal

PARTS = ("queue", "text_encode", "denoise", "decode", "encode")
SUM = "darkroom_part_duration_seconds_sum"
GOALS = {"balanced": 400.0, "flash-3step": 150.0}  # ms


async def stages(client: Client, presets: list[str], pictures: int) -> list[Goal]:
    """Lone requests of every preset in turn: the median that a caller waits, the mean of every part."""
    waited: dict[str, list[float]] = {preset: [] for preset in presets}
    kinds = (Kind(preset, {"preset": preset}) for preset in presets)
    loads = {kind.name: mix([kind], seed=11 + number, previews=False) for number, kind in enumerate(kinds)}
    for load in loads.values():
        await closed_loop(client, load, 1, 0.0)
    before = await client.get("/metrics")
    for _ in range(pictures):
        for preset, load in loads.items():
            waited[preset].append((await closed_loop(client, load, 1, 0.0)).samples[0].latency)
    after = await client.get("/metrics")

    def part(preset: str, name: str) -> float:
        """Its mean in milliseconds."""
        sums = (metric(page, SUM, preset=preset, part=name) for page in (after, before))
        return 1e3 * operator.sub(*sums) / pictures

    rows, medians = [], {preset: 1e3 * statistics.median(seconds) for preset, seconds in waited.items()}
    for preset, seconds in waited.items():
        parts = [part(preset, name) for name in PARTS]
        rest = 1e3 * statistics.fmean(seconds) - sum(parts)
        rows.append([preset, medians[preset], *parts, rest])
    report.table(("a lone request, ms", "median", *PARTS, "HTTP and the rest"), rows)
    return [
        Goal(f"{name}: a lone request, ms", medians[name], wanted, least=False)
        for name, wanted in GOALS.items()
        if name in medians
    ]
