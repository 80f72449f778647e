"""Orders and runners over the closed-form engine, for tests below HTTP."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from service.admission import Admission
from service.cost import Costs
from service.engines.contract import Engine, Ticket
from service.engines.dispatch import Gate
from service.engines.gaussian import GaussianEngine
from service.making import Order
from service.metrics import Metrics
from service.recipe import Overrides, Recipe, load_presets, resolve
from service.runner import Runner


def recipe(*, steps: int = 3, seed: int = 1, **fields: Any) -> Recipe:
    values = {"prompt": "x", "seed": seed, "num_inference_steps": steps, "width": 64, "height": 64, **fields}
    return resolve(Overrides.parse(values), load_presets(), GaussianEngine().models, "gaussian", "fp32")


def order(pictures: int = 1, request_id: str = "", **fields: Any) -> Order:
    recipes = [recipe(**{"seed": seed, **fields}) for seed in range(pictures)]
    return Order(recipes, ticket=Ticket(request_id=request_id))


@contextmanager
def running(
    engine: Engine | None = None,
    *,
    concurrency: int = 2,
    max_wait: float = 60.0,
    metrics: Metrics | None = None,
    costs: Costs | None = None,
) -> Iterator[Runner]:
    metrics, costs = metrics or Metrics(), costs or Costs()
    if not isinstance(engine, Gate):
        engine = Gate(engine or GaussianEngine(), in_flight=concurrency, observers=[metrics, costs])
    admission = Admission(costs, metrics, {}, places=engine.places, concurrency=concurrency, max_wait=max_wait)
    runner = Runner(engine, metrics, admission, concurrency=concurrency)
    try:
        yield runner
    finally:
        runner.close()
