"""Default requests beside one large picture, over HTTP: python -m benchmarks.upscaling beside."""

import contextlib
import io
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
from PIL import Image

BODY = {"prompt": "a red ball in the desert at sunset"}
PNG = {"accept": "image/png"}
NAME = "large"
BEGUN = 0.5  # seconds after which the enlargement is under way


def latencies(address: str, queries: Mapping[str, str], requests: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of default requests, one after the other: alone, then beside the picture that each query asks for.

    Every round has all of it; the first one warms up.
    """
    found: dict[str, list[float]] = {"alone": [], **{name: [] for name in queries}}
    with httpx.Client(base_url=address, timeout=600) as client:
        for number in range(-1, rounds):
            for name in found:
                with beside(client, queries.get(name)):
                    seconds = [_default(client, seed) for seed in range(requests)]
                found[name] += seconds if number >= 0 else []
    return found


@contextlib.contextmanager
def beside(client: httpx.Client, query: str | None) -> Iterator[None]:
    """One picture of 256 x 256 is being enlarged all the time, again when it is done."""
    if query is None:
        yield
        return
    file, stop = io.BytesIO(), threading.Event()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)).save(file, "PNG")
    headers = {**PNG, "content-type": "image/png", "x-request-id": NAME}
    request = client.build_request("POST", f"/v1/images/upscale?{query}", content=file.getvalue(), headers=headers)

    def enlarge() -> None:
        while not stop.is_set():
            try:
                with contextlib.closing(client.send(request, stream=True)) as answer:
                    assert answer.is_success or stop.is_set()
                    for _ in answer.iter_raw():
                        pass
            except httpx.RemoteProtocolError:  # cancelled after its first rows
                assert stop.is_set()

    with ThreadPoolExecutor(1) as thread:
        work = thread.submit(enlarge)
        time.sleep(BEGUN)
        yield
        stop.set()
        client.delete(f"/v1/images/generations/{NAME}")
        work.result()


def _default(client: httpx.Client, seed: int) -> float:
    start = time.perf_counter()
    client.post("/v1/images/generations", json={**BODY, "seed": seed}, headers=PNG).raise_for_status()
    return time.perf_counter() - start
