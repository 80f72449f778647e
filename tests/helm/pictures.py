"""A picture of each dashboard, by its own queries from a real Prometheus: python -m tests.helm.pictures

Two minutes of mixed load on Postcard behind Triton; drawn by matplotlib into docs/, for want of a Grafana.
"""

import re
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import matplotlib.pyplot as plt
import numpy as np

from export.triton_server import TritonServer
from helm.generate import DASHBOARDS, Panel
from service.engines.factory import open_engine
from service.settings import ROOT, Settings
from tests.api.harness import Running, serving
from tests.helm.test_monitoring import cancelled, prometheus

SECONDS, RATE = 120, "15s"
LABEL = "drawn by matplotlib from the dashboard's own queries; Grafana looks different"
UNITS = {
    "s": "seconds",
    "reqps": "requests/s",
    "ops": "1/s",
    "short": "",
    "bytes": "MB",
    "percentunit": "%",
    "µs": "µs",
}
SCALES = {"bytes": 1e-6, "percentunit": 100.0}
COLUMNS = 3
PRESETS = ("fast", "ays-postcard", "balanced", "auto")
BODY = {"prompt": "a red sphere on the beach", "num_inference_steps": 6}


def asks(running: Running, over: threading.Event, number: int) -> None:
    """A client of mixed habits."""
    for turn in count(number):
        if over.is_set():
            return
        preset = PRESETS[turn % len(PRESETS)]
        deadline = {"deadline_ms": (600, 1500, 60_000)[turn % 3]} if turn % 2 else {}
        with suppress(httpx.TransportError):
            running.post({"prompt": f"{BODY['prompt']} {turn % 5}", "seed": turn, "preset": preset, **deadline})
        if turn % 4 == 0:
            running.post({**BODY, "preset": "balanced"}, headers={"prefer": "respond-async"})
        if turn % 7 == 0 and number == 0:
            cancelled(running, {**BODY, "num_inference_steps": 200})
        time.sleep(0.2 * (number + 1))


def measured(ask: Callable[[str], list[Any]], panel: Panel) -> list[tuple[str, list[float], list[float]]]:
    """Legend, times and values of every line of a panel."""
    lines = []
    for legend, query in panel.queries.items():
        for series in ask(query.replace("$__rate_interval", RATE)):
            pairs = [(float(at), float(value) * SCALES.get(panel.unit, 1.0)) for at, value in series["values"]]
            label = re.sub(r"{{(\w+)}}", lambda found: series["metric"].get(found[1], ""), legend)  # noqa: B023
            lines.append((label.strip(), [at for at, _ in pairs], [value for _, value in pairs]))
    return lines


def draw(title: str, rows: Mapping[str, Sequence[Panel]], ask: Callable[[str], list[Any]], file: Path) -> None:
    """One dashboard."""
    panels = [panel for group in rows.values() for panel in group]
    height = -(-len(panels) // COLUMNS)
    figure, axes = plt.subplots(height, COLUMNS, figsize=(15, 2.9 * height), layout="constrained", squeeze=False)
    figure.suptitle(f"{title}\n{LABEL}", fontsize=11)
    for axis, panel in zip(axes.flat, panels, strict=False):
        lines = measured(ask, panel)
        start = min((times[0] for _, times, _ in lines), default=0.0)
        for label, times, values in lines:
            axis.plot(np.subtract(times, start), values, label=label, linewidth=1.2)
        axis.set_title(panel.title, fontsize=9)
        axis.set_ylabel(UNITS[panel.unit], fontsize=7)
        axis.tick_params(labelsize=7)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.25)
        if any(label for label, _, _ in lines):
            axis.legend(fontsize=6, loc="upper left")
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    figure.savefig(file, dpi=64)
    plt.close(figure)


def main() -> None:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        triton = stack.enter_context(TritonServer(Settings().model_repository))
        engine = open_engine(Settings(engine="triton", triton_url=triton.url))
        running = stack.enter_context(serving(engine, jobs_dir=folder / "jobs", max_concurrency=4))
        address = stack.enter_context(prometheus(folder, running.url[7:], f"127.0.0.1:{triton.metrics_port}"))
        over, pool = threading.Event(), stack.enter_context(ThreadPoolExecutor(3))
        clients = [pool.submit(asks, running, over, number) for number in range(3)]
        time.sleep(SECONDS)
        over.set()
        for client in clients:
            client.result()

        def ask(query: str) -> list[Any]:
            now = time.time()
            span = {"query": query, "start": now - SECONDS, "end": now, "step": 1}
            return list(
                httpx.get(f"{address}/api/v1/query_range", params=span).raise_for_status().json()["data"]["result"]
            )

        for uid, (title, rows) in DASHBOARDS.items():
            draw(title, rows, ask, ROOT / "docs" / f"{uid}.png")


if __name__ == "__main__":
    main()
