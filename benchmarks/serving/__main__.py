"""Latency, deadlines, goodput and overhead of the service under load, beside a thread pool around diffusers.

    python -m benchmarks.serving [--seconds 10] [--rounds 3] [--only PART]... [--smoke]

Postcard on the embedded engine and, in turn, diffusers on the same weights in the same precision; the gateway alone on
networks that answer at once. Prints tables with the goals beside what was measured, and draws serving.png. The load
generator runs on the same machine; the tables say how much of a core it took. --smoke runs all of it in small on the
gaussian engine, where the figures mean nothing.
"""

import asyncio
import json
import os
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from benchmarks.serving import gateway, mixed, overload, report
from benchmarks.serving.client import Client
from benchmarks.serving.load import Kind
from benchmarks.serving.overload import STEADY, Amount, System
from benchmarks.serving.processes import COMPILED, server
from benchmarks.serving.report import Goal
from benchmarks.serving.stages import stages
from service.engines.factory import open_engine
from service.fields import AUTO
from service.recipe import load_presets
from service.settings import ROOT, Settings

MODEL = "postcard"
PRESETS = ("fast", "ays", "balanced", "eps-scaled")
PARTS = ("load", "mixed", "overhead", "stages", "null")
DELETE = b"DELETE /queue HTTP/1.1\r\nhost: localhost\r\n\r\n"
SMOKE = Amount(seconds=0.3, rounds=1, callers=4)


@click.command()
@click.option("--seconds", default=10.0, show_default=True, help="of every run under load")
@click.option("--rounds", default=3, show_default=True, help="interleaved rounds")
@click.option("--scale", default=3.0, show_default=True, help="deadline under overload / latency of a lone request")
@click.option("--concurrency", default=8, show_default=True, help="the service's max_concurrency")
@click.option("--only", "parts", type=click.Choice(PARTS), multiple=True, default=PARTS, help="of the benchmark")
@click.option("--smoke", is_flag=True, help="everything in small, figures without meaning")
@click.option("--folder", type=click.Path(path_type=Path), default=ROOT / "build" / "benchmarks" / "serving")
def main(
    seconds: float, rounds: int, scale: float, concurrency: int, parts: tuple[str, ...], smoke: bool, folder: Path
) -> None:
    """Measure and print."""
    amount = SMOKE if smoke else Amount(seconds, rounds, scale=scale)
    folder.mkdir(parents=True, exist_ok=True)
    click.echo(f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f} before the first run")
    goals = asyncio.run(measure(amount, parts, concurrency, folder, smoke))
    click.echo()
    for goal in goals:
        click.echo(str(goal))
    (folder / "goals.json").write_text(json.dumps([asdict(goal) | {"met": goal.met} for goal in goals], indent=1))


async def measure(amount: Amount, parts: tuple[str, ...], concurrency: int, folder: Path, smoke: bool) -> list[Goal]:
    """The parts, one after the other; their goals."""
    settings: dict[str, Any] = {"engine": "gaussian" if smoke else "embedded", "default_model": MODEL}
    goals = []
    if {"load", "overhead", "stages"} & {*parts}:
        with server("service", "serve", port=0, max_concurrency=concurrency, **settings) as ours:
            async with Client(ours.address) as client:
                if "overhead" in parts:
                    goals.append(await gateway.overhead(client, 2 if smoke else 30))
                if "stages" in parts:
                    goals += await stages(client, await offered(client), 2 if smoke else 20)
                if "load" in parts:
                    goals += await load(client, amount, folder, smoke)
    if "mixed" in parts:
        here = Settings(cache_dir=COMPILED, **settings)
        with (
            closing(open_engine(here)) as engine,
            server("service", "serve", port=0, max_concurrency=mixed.AT_ONCE, **settings) as ours,
        ):
            async with Client(ours.address) as client:
                goals.append(await mixed.compare(client, engine, amount.rounds, "64x64" if smoke else "auto"))
    if "null" in parts:
        goals += await gateway.null(amount.seconds)
    return goals


async def offered(client: Client) -> list[str]:
    """The presets that the service has for its model, each by its own name."""
    presets = json.loads(await client.get("/v1/presets"))["data"]
    return [preset["id"] for preset in presets if preset["id"] != AUTO]


async def load(client: Client, amount: Amount, folder: Path, smoke: bool) -> list[Goal]:
    """The service and the baseline in turn."""
    found = load_presets()
    presets = {name: found[name].recipe.num_inference_steps for name in (PRESETS[:2] if smoke else PRESETS)}
    (model,) = json.loads(await client.get("/v1/models"))["data"]
    sizes = dict.fromkeys((model["sizes"][0], model["sizes"][-1]))  # the default one and, if there is, another
    ours = [Kind(f"{name} {size}", {"preset": name, "size": size}) for name in presets for size in sizes]
    theirs = [Kind(f"{steps} steps", {"num_inference_steps": 1 if smoke else steps}) for steps in presets.values()]
    with server("benchmarks.serving.baseline", MODEL, "--precision", model["precision"]) as baseline:
        async with Client(baseline.address) as other:
            systems = [
                System("darkroom", client, ours, lambda: asyncio.sleep(0), previews=True),
                System("diffusers in threads", other, theirs, lambda: other.ask(DELETE), previews=False),
            ]
            await overload.measure(systems, amount)
    goals = overload.show(systems, amount)
    goodput = {system.name: system.goodput() for system in systems}
    attained = {f"{system.name}, {at} x": system.attainment(at) for system in systems for at in STEADY}
    report.plot(goodput, attained, folder / "serving.png")
    (folder / "runs.json").write_text(json.dumps([system.runs() for system in systems]))
    return goals


if __name__ == "__main__":
    main()
