"""What one writes in an afternoon: a pool of threads around diffusers' pipeline behind FastAPI.

    python -m benchmarks.serving.baseline MODEL [--precision bf16] [--workers 2]

It knows prompt, seed, steps and guidance. Nothing is refused, and a caller who leaves is not noticed.
"""

import asyncio
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import click
import numpy as np
import torch
import uvicorn
from fastapi import FastAPI, Response

from benchmarks.networks import SIZE
from benchmarks.peers import Diffusers
from export.weights import rebuild
from service.images import encode
from service.settings import ROOT


class Pool:
    """Threads that draw; what waits can be thrown away, so that the next measurement finds an empty house."""

    def __init__(self, draw: Diffusers, workers: int) -> None:
        self._draw, self._workers = draw, workers
        self._threads = ThreadPoolExecutor(workers)

    async def picture(self, asked: dict[str, Any]) -> bytes:
        """A PNG."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._make, asked)

    def clear(self) -> None:
        """Forget what waits, finish what runs."""
        self._threads.shutdown(cancel_futures=True)
        self._threads = ThreadPoolExecutor(self._workers)

    def _make(self, asked: dict[str, Any]) -> bytes:
        pixels = self._draw(asked["prompt"], asked["seed"], asked["num_inference_steps"])
        return encode(np.round(pixels * 255).astype(np.uint8), None, "png")


def application(pool: Pool) -> FastAPI:
    """The routes."""
    app = FastAPI()

    @app.post("/v1/images/generations")
    async def generations(asked: dict[str, Any]) -> Response:
        return Response(await pool.picture(asked), media_type="image/png")

    @app.delete("/queue")
    def clear() -> None:
        pool.clear()

    return app


class Server(uvicorn.Server):
    """uvicorn that names its address once it listens."""

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        host, port = self.servers[0].sockets[0].getsockname()
        click.echo(f"http://{host}:{port}")


@click.command()
@click.argument("model")
@click.option("--precision", type=click.Choice(["bf16", "fp32"]), default="bf16", show_default=True)
@click.option("--workers", default=2, show_default=True, help="threads that draw; they share the cores")
def main(model: str, precision: str, workers: int) -> None:
    """Serve until SIGTERM."""
    logging.disable(logging.WARNING)
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))
    pipeline = rebuild(ROOT / "model_repository", model)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    pool = Pool(Diffusers(pipeline, dtype, SIZE), workers)
    Server(uvicorn.Config(application(pool), port=0, log_level="critical")).run()


if __name__ == "__main__":
    main()
