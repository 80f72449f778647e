"""The real Triton behind the same protocol: pictures are those of the embedded engine, byte for byte."""

from collections.abc import Iterator

import numpy as np
import pytest

from service.engines.contract import Engine, Ticket
from service.engines.factory import open_engine
from service.pipeline import generate
from service.recipe import Overrides, Recipe, load_presets, resolve
from service.settings import Settings
from tests.e2e.triton_server import TritonServer

pytestmark = pytest.mark.triton

MODEL = Settings().default_model


@pytest.fixture(scope="module")
def server() -> Iterator[TritonServer]:
    with TritonServer(Settings().model_repository) as running:
        yield running


@pytest.fixture(scope="module")
def triton(server: TritonServer) -> Iterator[Engine]:
    engine = open_engine(Settings(engine="triton", triton_url=server.url))
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    engine = open_engine(Settings(cache_dir=tmp_path_factory.mktemp("cache")))
    yield engine
    engine.close()


def recipe(engine: Engine, prompt: str) -> Recipe:
    wanted = Overrides(prompt=prompt, seed=7, num_inference_steps=4)
    return resolve(wanted, load_presets(), engine.models, engine.name, engine.precision)


def test_a_picture_has_the_pixels_of_the_embedded_engine(triton: Engine, embedded: Engine) -> None:
    triton.health()
    prompt = "a red lighthouse at dusk"
    far = generate(triton, recipe(triton, prompt), Ticket())
    near = generate(embedded, recipe(embedded, prompt), Ticket())
    np.testing.assert_array_equal(far.pixels, near.pixels)
    assert far.pixels.std() > 0
