"""Fair timing on a noisy machine: contestants take turns in every round; medians and per-round ratios are quoted."""

import statistics
import threading
import time
from collections.abc import Callable, Mapping

Task = Callable[[int], object]  # runs one unit of work; the argument numbers it, so that prompts and seeds differ


def seconds(task: Task, index: int) -> float:
    """Wall time of one run."""
    start = time.perf_counter()
    task(index)
    return time.perf_counter() - start


def together(task: Task, first: int, count: int) -> float:
    """Wall time per unit of ``count`` units started at once, each in its own thread."""
    threads = [threading.Thread(target=task, args=(first + k,)) for k in range(count)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return (time.perf_counter() - start) / count


def interleave(tasks: Mapping[str, Callable[[int], float]], rounds: int, warmup: int = 1) -> dict[str, list[float]]:
    """Every task once per round, in turn; the warm-up rounds are not counted."""
    measured: dict[str, list[float]] = {name: [] for name in tasks}
    for index in range(-warmup, rounds):
        for name, task in tasks.items():
            elapsed = task(index + warmup)
            if index >= 0:
                measured[name].append(elapsed)
    return measured


def ratio(slow: list[float], fast: list[float]) -> float:
    """Median over rounds of slow / fast: drift of the machine cancels within a round."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))
