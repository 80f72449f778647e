"""The real Triton behind the service: crowds of requests, the bytes of a lone one, fewer executions."""

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from export.triton_server import TritonServer
from service import images
from service.engines.contract import DESCRIPTION
from service.engines.factory import open_engine
from service.engines.runtimes import OpenVino
from service.settings import Settings
from tests.api.harness import Running, serving
from tests.families import tiny_sdxl
from tests.models import export_tiny

pytestmark = pytest.mark.triton

MODELS, SIZES = ("postcard", "tiny"), ((128, 192), (192, 128))
RECIPES: list[dict[str, Any]] = [
    {"sampler": "euler", "schedule": "linspace", "num_inference_steps": 2},
    {"sampler": "euler_ancestral", "schedule": "karras", "num_inference_steps": 3},
    {"sampler": "heun", "schedule": "exponential", "num_inference_steps": 2},
    {"sampler": "dpmpp_2m", "schedule": "trailing", "num_inference_steps": 4},
    {"sampler": "dpmpp_2m_sde", "schedule": "simple", "num_inference_steps": 3},
    {"sampler": "ddim", "schedule": "linspace", "num_inference_steps": 3, "guidance_scale": 1.0},
    {"sampler": "unipc", "schedule": "karras", "num_inference_steps": 3, "guidance_method": "apg"},
    {"sampler": "euler", "schedule": "trailing", "num_inference_steps": 3, "negative_prompt": "fog"},
]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Postcard and SDXL in small, told to serve two sizes that keep the networks busy while requests arrive."""
    folder = tmp_path_factory.mktemp("triton")
    repository = folder / "repository"
    shutil.copytree(Settings().model_repository, repository)
    export_tiny(tiny_sdxl(folder / "checkpoint"), repository)
    for model in MODELS:
        file = repository / f"{model}_unet" / DESCRIPTION / "model.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"sizes": SIZES}))
    return repository


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[TritonServer]:
    with TritonServer(repository) as running:
        yield running


def service(repository: Path, url: str, **settings: object) -> Any:
    """The service in front of the server, with nothing remembered."""
    chosen = {"model_repository": repository, "max_concurrency": 64, "max_wait_seconds": 600, **settings}
    return serving(open_engine(Settings(engine="triton", triton_url=url, **chosen)), **chosen)


def bodies(model: str) -> list[dict[str, Any]]:
    """64 requests: 8 recipes, 2 sizes, 4 seeds."""
    return [
        {"model": model, "preset": "balanced", "prompt": f"picture {number}", "size": f"{width}x{height}", "seed": seed}
        | recipe
        for seed in range(4)
        for width, height in SIZES
        for number, recipe in enumerate(RECIPES)
    ]


def picture(running: Running, body: dict[str, Any]) -> bytes:
    reply = running.post(body, headers={"Accept": "image/png"}, timeout=300)
    assert reply.status_code == 200, reply.text
    return reply.content


def executions(server: TritonServer, model: str) -> int:
    """Calls of a model's networks so far, however many rows each served."""
    with grpc.insecure_channel(server.url) as channel:
        found = GRPCInferenceServiceStub(channel).ModelStatistics(pb.ModelStatisticsRequest()).model_stats
    return sum(each.execution_count for each in found if each.name.startswith(f"{model}_"))


@pytest.mark.parametrize("model", MODELS)
def test_in_a_crowd_of_64_every_picture_has_the_bytes_it_has_alone(
    repository: Path, server: TritonServer, model: str
) -> None:
    start = executions(server, model)
    with service(repository, server.url) as running:
        alone = [picture(running, body) for body in bodies(model)]
    middle = executions(server, model)
    with service(repository, server.url) as running, ThreadPoolExecutor(64) as threads:
        together = list(threads.map(lambda body: picture(running, body), bodies(model)))
    differing = [number for number, pair in enumerate(zip(together, alone, strict=True)) if pair[0] != pair[1]]
    assert not differing
    recipe = images.recipe_of(alone[0])
    assert (recipe["engine"], recipe["precision"]) == ("triton", OpenVino("auto", 1, Path()).precision)
    assert len(set(alone)) == 64
    assert executions(server, model) - middle <= 0.6 * (middle - start)


def test_the_server_tells_how_many_rows_its_executions_have(server: TritonServer) -> None:
    text = httpx.get(f"http://127.0.0.1:{server.metrics_port}/metrics").text
    found = dict(line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("darkroom_execution_rows"))
    at_most_2, all_of_them = (
        float(found[f'darkroom_execution_rows_bucket{{model="postcard_unet",le="{bound}"}}']) for bound in ("2", "+Inf")
    )
    assert 0 < at_most_2 < all_of_them
