"""Sixteen recipes at once over HTTP against the best loop of equal recipes without a server."""

import asyncio
import statistics
import time
from functools import partial
from typing import Any

from benchmarks.methods import METHODS
from benchmarks.serving import report
from benchmarks.serving.client import Client, post
from benchmarks.serving.load import PATH
from benchmarks.serving.report import Goal
from benchmarks.timing import ratio, together
from service.api.schemas import ImageRequest
from service.engines.contract import Engine, Ticket
from service.images import encode
from service.pipeline import generate
from service.recipe import Recipe, load_presets
from service.settings import Settings

STEPS = 10
EQUAL: dict[str, Any] = {"preset": "balanced", "num_inference_steps": STEPS, "guidance_interval": [0, 1e6]}
SCALES = (3.0, 5.0)  # of guidance: with the methods, sixteen recipes
AT_ONCE = len(METHODS) * len(SCALES)
LOOPS = METHODS[:3]  # the cheapest samplers, of which the best loop counts


def body(method: int, scale: int, number: int, size: str) -> dict[str, Any]:
    """A request of one of the recipes."""
    own = {"prompt": f"picture number {number} of a blue cube", "seed": number, "size": size}
    return EQUAL | METHODS[method] | own | {"guidance_scale": SCALES[scale]}


async def compare(client: Client, engine: Engine, rounds: int, size: str) -> Goal:
    """Seconds per picture of both, in turn."""
    served, presets = [], load_presets()
    fields = [ImageRequest.parse(body(i, 0, 0, size)) for i in range(len(LOOPS))]
    recipes = [asked.resolved(Settings(), engine, presets) for asked in fields]
    loops: dict[str, list[float]] = {method["sampler"]: [] for method in LOOPS}
    for turn in range(rounds + 1):  # the first one warms up
        mixed = await over_http(client, turn, size)
        seconds = [
            await asyncio.to_thread(together, partial(offline, engine, recipe), 100 * turn, AT_ONCE)
            for recipe in recipes
        ]
        if turn:
            served.append(mixed)
            for name, taken in zip(loops, seconds, strict=True):
                loops[name].append(taken)
    rows: list[list[Any]] = [["16 mixed recipes over HTTP", 1 / statistics.median(served)]]
    rows += [[f"16 x {name}, no server", 1 / statistics.median(taken)] for name, taken in loops.items()]
    report.table((f"{STEPS} steps, files included", "pictures/s"), rows)
    best = min(loops.values(), key=statistics.median)
    return Goal("16 mixed recipes / best offline loop of equal ones", ratio(best, served), 0.95, least=True)


async def over_http(client: Client, turn: int, size: str) -> float:
    """Wall time per picture of sixteen requests at once, no two of one recipe."""
    requests = [post(PATH, body(i % len(METHODS), i // len(METHODS), 100 * turn + i, size)) for i in range(AT_ONCE)]
    start = time.perf_counter()
    replies = await asyncio.gather(*map(client.ask, requests))
    if failed := [reply for reply in replies if reply.status != 200]:
        raise RuntimeError(failed[0].body.decode())
    return (time.perf_counter() - start) / AT_ONCE


def offline(engine: Engine, recipe: Recipe, number: int) -> None:
    """One picture of a recipe, its prompt and its noise new, and its file."""
    recipe = recipe.model_copy(update={"prompt": f"picture number {number} of a blue cube", "seed": number})
    encode(generate(engine, recipe, Ticket()).pixels, recipe.model_dump(mode="json"), "png")
