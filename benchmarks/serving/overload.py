"""The service and the baseline in turn: alone, in closed loop, under arrivals that wait for nobody."""

import statistics
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import click

from benchmarks.serving import report
from benchmarks.serving.client import GONE, Client
from benchmarks.serving.load import Kind, Run, arrivals, closed_loop, mix, open_loop
from benchmarks.serving.report import SCALES, Goal

STEADY = (0.5, 0.8)  # of capacity, without deadlines
LOADS = (0.5, 1.0, 2.0, 5.0)  # of capacity, with them


@dataclass(frozen=True)
class Amount:
    """How much is measured."""

    seconds: float = 10.0  # of every run
    rounds: int = 3
    callers: int = 16
    scale: float = 3.0  # of the deadlines under overload


@dataclass
class System:
    """Who is measured, and what was found."""

    name: str
    client: Client
    kinds: Sequence[Kind]
    clear: Callable[[], Awaitable[object]]  # forget the work that nobody waits for any more
    previews: bool
    unloaded: Mapping[str, float] = field(default_factory=dict)
    closed: list[Run] = field(default_factory=list)
    steady: dict[float, list[Run]] = field(default_factory=lambda: {load: [] for load in STEADY})
    overloaded: dict[float, list[Run]] = field(default_factory=lambda: {load: [] for load in LOADS})

    @property
    def capacity(self) -> float:
        """Pictures per second that callers in closed loop get."""
        return statistics.median(run.rate for run in self.closed)

    def runs(self) -> dict[str, Any]:
        """Every sample, as JSON takes it."""
        return {
            "name": self.name,
            "unloaded": self.unloaded,
            "closed": [asdict(run) for run in self.closed],
            "steady": {load: [asdict(run) for run in runs] for load, runs in self.steady.items()},
            "overloaded": {load: [asdict(run) for run in runs] for load, runs in self.overloaded.items()},
        }

    def goodput(self) -> dict[float, float]:
        """By load."""
        return {load: report.merged(runs).goodput for load, runs in self.overloaded.items()}

    def sustained(self) -> float:
        """Goodput under the heaviest load / its peak."""
        found = self.goodput()
        return found[LOADS[-1]] / max(found.values()) if any(found.values()) else 0.0

    def attainment(self, load: float) -> dict[float, float]:
        """By scale of the deadline, all on the same samples."""
        samples = report.merged(self.steady[load]).samples
        return {scale: report.attainment(samples, self.unloaded, scale) for scale in SCALES}


async def measure(systems: Sequence[System], amount: Amount) -> None:
    """Everything, the systems taking turns."""
    alone: dict[tuple[str, str], list[float]] = {}
    for turn in range(max(3, amount.rounds) + 1):
        for system in systems:
            for kind in system.kinds:
                run = await closed_loop(system.client, mix([kind], seed=turn, previews=False), 1, 0.0)
                if turn:  # the first one warms up
                    alone.setdefault((system.name, kind.name), []).append(run.samples[0].latency)
    for system in systems:
        system.unloaded = {kind.name: statistics.median(alone[system.name, kind.name]) for kind in system.kinds}
    for seed in range(amount.rounds):
        for system in systems:
            requests = mix(system.kinds, seed=seed, previews=False)
            system.closed.append(await closed_loop(system.client, requests, amount.callers, amount.seconds))
    for seed in range(amount.rounds):
        for load in STEADY:
            for system in systems:
                requests = mix(system.kinds, seed=seed, previews=system.previews)
                times = arrivals(load * system.capacity, amount.seconds, seed)
                system.steady[load].append(await open_loop(system.client, requests, times, amount.seconds))
        for load in LOADS:
            for system in systems:
                deadlines = {name: amount.scale * seconds for name, seconds in system.unloaded.items()}
                requests = mix(system.kinds, seed=seed, previews=False, deadlines=deadlines)
                times = arrivals(load * system.capacity, amount.seconds, seed)
                system.overloaded[load].append(await open_loop(system.client, requests, times, amount.seconds))
                await system.clear()


def show(systems: Sequence[System], amount: Amount) -> list[Goal]:
    """Print the tables; the goal."""
    for system in systems:
        lone = ", ".join(f"{name} {seconds:.3f} s" for name, seconds in system.unloaded.items())
        click.echo(f"\n{system.name}: lone requests {lone}; capacity {system.capacity:.2f} pictures/s")
    rows = [[s.name, f"closed, {amount.callers} callers", *report.latencies(report.merged(s.closed))] for s in systems]
    for load in STEADY:
        rows += [
            [s.name, f"open, {load} x capacity", *report.latencies(report.merged(s.steady[load]))] for s in systems
        ]
    report.table(("", "load", *report.LATENCIES), rows)
    attained = [[s.name, f"{load} x", *s.attainment(load).values()] for load in STEADY for s in systems]
    report.table(("deadline attainment", "load", *(f"scale {scale}" for scale in SCALES)), attained)
    report.table(
        (f"goodput/s, deadline scale {amount.scale}", *(f"{load} x" for load in LOADS), "5x / peak"),
        [[s.name, *s.goodput().values(), s.sustained()] for s in systems],
    )
    report.table(("at what load", *OUTCOMES), [row for s in systems for row in _outcomes(s)])
    return [Goal("goodput at 5x of capacity / its peak", systems[0].sustained(), 0.9, least=True)]


OUTCOMES = ("requests", "in time", "late", "429 or 504", "caller left", "other", "generator, cores")


def _outcomes(system: System) -> list[list[Any]]:
    """What became of the requests, by load."""
    rows: list[list[Any]] = []
    for load, runs in system.overloaded.items():
        run = report.merged(runs)
        done = [s for s in run.samples if s.status == 200]
        in_time = sum(s.deadline is not None and s.within(s.deadline) for s in done)
        refused, gone = (sum(s.status in codes for s in run.samples) for codes in ((429, 504), (GONE,)))
        other = len(run.samples) - len(done) - refused - gone
        counts = (len(run.samples), in_time, len(done) - in_time, refused, gone, other)
        rows.append([f"{system.name}, {load} x", *map(str, counts), run.cpu / run.seconds])
    return rows
