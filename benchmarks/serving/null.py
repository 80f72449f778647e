"""The service with networks that answer at once, or after the time a GPU would take: what is left is the gateway.

    python -m benchmarks.serving.null [--step-ms 0]

On SIGTERM it prints, as JSON, how many seconds the steps of a picture took beyond their network: count, p50, p99.
"""

import json
import threading
import time
from collections.abc import Sequence

import click

from benchmarks.serving.report import percentiles
from service import app
from service.engines.contract import Array, Conditioning, Ticket
from service.engines.gaussian import GaussianEngine
from service.settings import Settings


class NullEngine(GaussianEngine):
    """A step takes ``step`` seconds, in which the interpreter is free as it is while a GPU works."""

    def __init__(self, step: float) -> None:
        super().__init__(null=True)
        self._step, self._before = step, threading.local()
        self.added: list[float] = []  # seconds between a step's network call and the next one's, beyond ``step``

    def predict(
        self, model: str, network: str, x: Array, timestep: Array, conditioning: Sequence[Conditioning], ticket: Ticket
    ) -> Array:
        now, before = time.perf_counter(), getattr(self._before, "call", None)
        if before and before[0] is ticket:
            self.added.append(now - before[1] - self._step)
        self._before.call = ticket, now
        if self._step:
            time.sleep(self._step)
        return super().predict(model, network, x, timestep, conditioning, ticket)


@click.command()
@click.option("--step-ms", default=0.0, show_default=True, help="milliseconds of a network call")
def main(step_ms: float) -> None:
    """Serve as the environment says (DARKROOM_...) until SIGTERM."""
    engine = NullEngine(step_ms / 1000)
    app.serve(Settings(engine="gaussian"), lambda address, _: click.echo(address), engine)
    click.echo(json.dumps([len(engine.added), *percentiles(engine.added, 50, 99)]))


if __name__ == "__main__":
    main()
