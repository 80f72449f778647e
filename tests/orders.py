"""Orders and runners over the closed-form engine, for tests below HTTP."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from service.engines.contract import Engine, Ticket
from service.engines.gaussian import GaussianEngine
from service.metrics import Metrics
from service.recipe import Overrides, Recipe, load_presets, resolve
from service.runner import Order, Runner


def recipe(*, steps: int = 3, seed: int = 1, **fields: Any) -> Recipe:
    values = {"prompt": "x", "seed": seed, "num_inference_steps": steps, "width": 64, "height": 64, **fields}
    return resolve(Overrides.parse(values), load_presets(), GaussianEngine().models, "gaussian", "fp32")


def order(pictures: int = 1, request_id: str = "", **fields: Any) -> Order:
    recipes = [recipe(**{"seed": seed, **fields}) for seed in range(pictures)]
    return Order(recipes, ticket=Ticket(request_id=request_id))


@contextmanager
def running(
    engine: Engine | None = None, *, concurrency: int = 2, queue: int = 4, metrics: Metrics | None = None
) -> Iterator[Runner]:
    runner = Runner(engine or GaussianEngine(), metrics or Metrics(), concurrency=concurrency, queue=queue)
    try:
        yield runner
    finally:
        runner.close()
