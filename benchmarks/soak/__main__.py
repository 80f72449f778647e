"""Thousands of mixed requests, some of them rude, at a service that is restarted meanwhile: what leaks, what is lost?

    python -m benchmarks.soak [--requests 10000] [--restarts 6]
    python -m benchmarks.soak --triton 300

The second serves Postcard through NVIDIA Triton on this machine, whose Python processes are killed now and then. Every
picture that arrives must be, to the byte, the one that the same request gave alone. Restarts (SIGTERM and SIGKILL in
turn) fall into the first two fifths; memory, descriptors and threads are compared over the last two. Exit code 1 if
anything was lost, wrong or failed.
"""

import asyncio
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import click

from benchmarks.soak.clients import Soak
from benchmarks.soak.report import Report
from benchmarks.soak.service import Service, kill_stub
from benchmarks.soak.wishes import BODIES, POSTCARDS
from export.triton_server import TritonServer
from service.settings import ROOT


def on_gaussian(requests: int, restarts: int, seed: int = 0) -> Report:
    """The closed-form engine: everything above the networks."""
    with tempfile.TemporaryDirectory() as folder, Service(Path(folder), engine="gaussian") as service:
        return asyncio.run(Soak(service, BODIES, seed).run(requests, restarts))


def on_triton(requests: int, kills: int, seed: int = 0) -> Report:
    """Postcard behind a real Triton."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(TritonServer(ROOT / "model_repository"))
        service = stack.enter_context(Service(folder, engine="triton", triton_url=server.url))
        killing = [lambda: kill_stub(server.process.pid)] * kills
        return asyncio.run(Soak(service, POSTCARDS, seed).run(requests, restarts=0, killing=killing))


@click.command(help=__doc__)
@click.option("--requests", default=10_000, show_default=True, type=click.IntRange(100))
@click.option("--restarts", default=6, show_default=True, type=click.IntRange(0))
@click.option("--triton", type=click.IntRange(100), help="So many requests through Triton instead.")
@click.option("--kills", default=6, show_default=True, type=click.IntRange(0), help="Of Triton's processes.")
@click.option("--seed", default=0, show_default=True)
def main(requests: int, restarts: int, triton: int | None, kills: int, seed: int) -> None:
    report = on_triton(triton, kills, seed) if triton else on_gaussian(requests, restarts, seed)
    click.echo("\n".join(report.lines()))
    sys.exit(not report.clean)


if __name__ == "__main__":
    main()
