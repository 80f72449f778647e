"""Every sampler beside seven pictures of other recipes, on both engines: the pixels are those it has alone."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from export.triton_server import TritonServer
from service.diffusion.samplers import SAMPLERS
from service.engines.contract import Array, Engine, Ticket
from service.engines.dispatch import Called, Silent
from service.engines.factory import open_engine
from service.pipeline import generate
from service.recipe import Overrides, Recipe, load_presets, resolve
from service.settings import Settings

pytestmark = pytest.mark.slow

SCHEDULES = ("trailing", "karras", "linspace", "exponential", "ays", "simple", "kl_optimal", "polyexponential")
REST: tuple[dict[str, Any], ...] = (
    {"guidance_scale": 3.0},
    {"guidance_scale": 1.0},
    {"guidance_scale": 6.0, "guidance_method": "apg"},
    {"guidance_scale": 4.0, "guidance_interval": [0.1, 30.0], "epsilon_scaling": {"scale": 1.01}},
    {"guidance_scale": 5.0, "guidance_options": {"rescale": 0.7}},
    {"guidance_scale": 3.0, "cads": {}},
    {"guidance_scale": 2.0, "negative_prompt": "fog"},
    {"guidance_scale": 3.5, "time_shift": {"data_variance": 0.5}},
)
ALL = [*SAMPLERS, "euler"]  # two crowds of eight
BODIES = [
    {"prompt": f"a {colour} cube", "seed": i, "sampler": sampler, "schedule": SCHEDULES[i % 8]}
    | {"num_inference_steps": 3 + i % 2, "guidance_interval": None}
    | REST[(i + i // 8) % 8]
    for i, (sampler, colour) in enumerate(zip(ALL, ["red", "blue", "green", "yellow"] * 4, strict=True))
]


class Merges(Silent):
    """Counts the calls of the denoiser, and of them those that served several pictures at once."""

    def __init__(self) -> None:
        self.calls = self.merged = 0

    def called(self, call: Called) -> None:
        if call.network == "unet":
            self.calls += 1
            self.merged += call.requests > 1


@pytest.fixture(scope="module")
def merges() -> Merges:
    return Merges()


@pytest.fixture(scope="module")
def embedded(merges: Merges, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    engine = open_engine(Settings(cache_dir=tmp_path_factory.mktemp("cache")), [merges])
    yield engine
    engine.close()


def recipes(engine: Engine) -> list[Recipe]:
    presets = load_presets()
    return [resolve(Overrides.parse(body), presets, engine.models, engine.name, engine.precision) for body in BODIES]


@pytest.fixture(scope="module")
def alone(embedded: Engine) -> list[Array]:
    """The pixels of every recipe, one after another."""
    return [generate(embedded, recipe, Ticket()).pixels for recipe in recipes(embedded)]


def together(engine: Engine) -> list[Array]:
    """The same, eight at a time."""
    barrier = Barrier(8)

    def picture(recipe: Recipe) -> Array:
        barrier.wait(60)
        return generate(engine, recipe, Ticket()).pixels

    with ThreadPoolExecutor(8) as threads:
        return [
            pixels for crowd in (slice(0, 8), slice(8, 16)) for pixels in threads.map(picture, recipes(engine)[crowd])
        ]


def test_every_sampler_is_there_and_no_two_recipes_of_a_crowd_are_alike() -> None:
    assert {body["sampler"] for body in BODIES} == set(SAMPLERS)
    for crowd in (BODIES[:8], BODIES[8:]):
        for field in ("sampler", "schedule", "guidance_scale"):
            assert len({body[field] for body in crowd}) >= 7


def test_embedded(embedded: Engine, alone: list[Array], merges: Merges) -> None:
    assert merges.merged == 0
    assert len({pixels.tobytes() for pixels in alone}) == len(alone)
    before = merges.calls
    for mine, expected in zip(together(embedded), alone, strict=True):
        np.testing.assert_array_equal(mine, expected)
    assert merges.merged > (merges.calls - before) / 4


@pytest.mark.triton
def test_triton(alone: list[Array]) -> None:
    repository = Settings().model_repository
    with TritonServer(repository) as server:
        engine = open_engine(Settings(engine="triton", triton_url=server.url))
        for mine, expected in zip(together(engine), alone, strict=True):
            np.testing.assert_array_equal(mine, expected)
        entry = engine.models[Settings().default_model].networks["unet"].entry
        engine.close()
        requests, executions = counted(server.url, entry)
        assert executions < requests * 3 / 4


def counted(url: str, entry: str) -> tuple[int, int]:
    """How many requests a server has had for an entry, and in how many executions it answered them."""
    with grpc.insecure_channel(url) as channel:
        stub = GRPCInferenceServiceStub(channel)
        (found,) = stub.ModelStatistics(pb.ModelStatisticsRequest(name=entry)).model_stats
    return found.inference_stats.success.count, found.execution_count
