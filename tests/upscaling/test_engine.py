"""The upsampler among the other networks of an engine: merged, shared fairly, described, configured for Triton."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from service.engines import gaussian
from service.engines.contract import Array, Conditioning, Surroundings, Ticket, digest_of, load_descriptions
from service.engines.dispatch import Called, Gate, Silent
from service.engines.embedded import EmbeddedEngine
from service.engines.gaussian import GaussianEngine
from service.enlargement import WIDEST
from service.errors import InvalidRequest
from service.upscale import Upscale, upscale
from service.upscaling.lanczos import enlarge
from tests.engines.tiny import NAME
from training.upsampler import Upsampler

TICKET = Ticket()
RNG = np.random.default_rng(0)


def rows(count: int, network: Upsampler) -> tuple[Array, Array, list[Surroundings]]:
    """Blocks at several noise levels, some without some of their neighbours."""
    shape = network.sizes.cache

    def around() -> Surroundings:
        base, lowres, small = (RNG.uniform(-1, 1, (3, side, side)).astype(np.float32) for side in (16, 12, 8))
        caches = tuple(RNG.standard_normal(shape, np.float32) if RNG.random() < 0.7 else None for _ in range(3))
        return Surroundings(base, lowres, small, caches)

    x = RNG.standard_normal((count, 3, 16, 16)).astype(np.float32)
    return x, np.geomspace(0.02, 2, count).astype(np.float32), [around() for _ in range(count)]


def test_the_gate_merges_blocks_and_changes_no_byte(
    open_engine: Callable[[str], EmbeddedEngine], network: Upsampler
) -> None:
    engine = open_engine("auto")
    x, sigma, around = rows(24, network)
    calls: list[Called] = []
    observer = type("Ledger", (Silent,), {"called": lambda _, call: calls.append(call)})()
    gate = Gate(engine, in_flight=1, max_rows=8, observers=[observer])

    def ask(i: int) -> tuple[Array, Array]:
        part = slice(2 * i, 2 * i + 2)
        return gate.upsample(NAME, x[part], sigma[part], around[part], TICKET)

    with ThreadPoolExecutor(12) as threads:
        found = list(threads.map(ask, range(12)))
    for i, (x0, caches) in enumerate(found):
        for row in (0, 1):
            one = slice(2 * i + row, 2 * i + row + 1)
            alone = engine.upsample(NAME, x[one], sigma[one], around[one], TICKET)
            np.testing.assert_array_equal(x0[row], alone[0][0])
            np.testing.assert_array_equal(caches[row], alone[1][0])
    assert sum(call.rows for call in calls) == 24
    assert max(call.requests for call in calls) > 1
    assert {(call.network, call.size) for call in calls} == {("upsampler", (16, 16))}


class Slow(GaussianEngine):
    """Waits in its first call; writes down what it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.order: list[str] = []
        self.go, self.running = threading.Event(), threading.Event()

    def upsample(
        self, model: str, x: Array, sigma: Array, surroundings: Sequence[Surroundings], ticket: Ticket
    ) -> tuple[Array, Array]:
        self.order.append("upsampler")
        self.running.set()
        assert self.go.wait(10)
        return super().upsample(model, x, sigma, surroundings, ticket)

    def predict(
        self, model: str, network: str, x: Array, timestep: Array, conditioning: Sequence[Conditioning], ticket: Ticket
    ) -> Array:
        self.order.append("unet")
        return super().predict(model, network, x, timestep, conditioning, ticket)


def test_a_picture_of_the_same_tenant_does_not_wait_behind_blocks() -> None:
    engine = Slow()
    gate = Gate(engine, in_flight=1)
    prompt = engine.encode_text(gaussian.NAME, engine.tokenize(gaussian.NAME, "a"), TICKET)
    around = Surroundings(np.zeros((3, 32, 32)), np.zeros((3, 24, 24)), np.zeros((3, 8, 8)), (None, None, None))
    latent = np.zeros((2, 4, 32, 32))
    with ThreadPoolExecutor(8) as threads:
        futures = [
            threads.submit(gate.upsample, gaussian.NAME, np.zeros((4, 3, 32, 32)), np.ones(4), [around] * 4, TICKET)
            for _ in range(6)
        ]
        assert engine.running.wait(10)
        while len(gate._queue._calls) < 5:
            threading.Event().wait(0.001)
        futures.append(threads.submit(gate.predict, gaussian.NAME, "unet", latent, np.ones(2), [prompt] * 2, TICKET))
        while len(gate._queue._calls) < 6:
            threading.Event().wait(0.001)
        engine.go.set()
        for future in futures:
            future.result()
    assert engine.order.index("unet") <= 2, engine.order


def test_the_closed_form_upsampler_draws_blocks_to_their_base() -> None:
    """By Wiener's share, the posterior mean of a Gaussian around the base."""
    base, x = RNG.standard_normal((2, 1, 3, 32, 32))
    around = Surroundings(base[0], np.zeros((3, 24, 24)), np.zeros((3, 8, 8)), (None, None, None))
    found, _ = GaussianEngine().upsample(gaussian.NAME, x, np.array([0.6]), [around], TICKET)
    share = gaussian.SPREAD**2 / (gaussian.SPREAD**2 + 0.36)
    np.testing.assert_allclose(found, base * (1 - share) + x * share, atol=1e-6)


def test_a_strip_may_be_as_wide_as_any_file() -> None:
    lowres = RNG.integers(0, 256, (3, WIDEST // 4, 3), np.uint8)
    steps = list(upscale(GaussianEngine(), Upscale(gaussian.NAME, 4, "euler", (0.05, 0.0), 0), lowres, TICKET))
    made = np.concatenate([step.rows for step in steps])
    assert made.shape == (12, WIDEST, 3)
    expected = np.concatenate([step.rows for step in enlarge(lowres, 4)])
    assert np.abs(made.astype(int) - expected).mean() < 10, "the closed form adds noise of 0.05"


def test_the_description_says_what_was_added(repository: Path, network: Upsampler) -> None:
    model, folder = load_descriptions(repository)[NAME]
    assert model.upsampler is not None
    assert model.upsampler.block == network.sizes.block
    entry = model.networks["upsampler"]
    assert digest_of(repository / entry.entry / "1" / entry.file) == entry.sha256
    assert [tensor.name for tensor in entry.outputs] == ["x0", "cache"]
    config = text_format.Parse((repository / entry.entry / "config.pbtxt").read_text(), ModelConfig())
    assert [port.name for port in config.input] == [tensor.name for tensor in entry.inputs]
    assert config.parameters["digest"].string_value == entry.digest
    assert sorted(file.name for file in folder.iterdir()) == ["model.json", "tokenizer.json"]
    assert not list(repository.glob(".*")), "nothing is left behind"


def test_a_model_without_one_is_refused() -> None:
    engine = GaussianEngine()
    engine.models = {gaussian.NAME: engine.models[gaussian.NAME].model_copy(update={"upsampler": None})}
    with pytest.raises(InvalidRequest, match="has no upsampler"):
        list(upscale(engine, Upscale(gaussian.NAME, 4, "euler", (1.0, 0.0), 0), np.zeros((4, 4, 3), np.uint8), TICKET))
