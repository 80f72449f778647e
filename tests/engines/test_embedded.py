"""The embedded engine on both runtimes: the file's own numbers, equal bytes in every company, caches to be trusted."""

import importlib.util
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from service.engines import buckets
from service.engines.contract import Array, Conditioning, Ticket
from service.engines.dispatch import Gate
from service.engines.embedded import EmbeddedEngine
from service.engines.runtimes import Executable, OnnxRuntime, OpenVino, Runtime, Shapes, open_runtime
from service.errors import EngineFailure, Unavailable
from service.settings import Settings
from tests import signals
from tests.engines.tiny import NAME

TICKET = Ticket()
RNG = np.random.default_rng(0)


def open_vino(cache: Path, precision: str = "fp32") -> OpenVino:
    return OpenVino(precision, 2, cache)


@pytest.fixture(scope="module", params=["openvino fp32", "openvino auto", "onnxruntime"])
def runtime(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    if request.param == "onnxruntime":
        return OnnxRuntime("auto", 2)
    return open_vino(tmp_path_factory.mktemp("cache"), request.param.split()[1])


@pytest.fixture(scope="module")
def engine(repository: Path, runtime: Runtime) -> Iterator[EmbeddedEngine]:
    made = EmbeddedEngine(repository, runtime)
    yield made
    made.close()


def encoded(engine: EmbeddedEngine, prompt: str) -> Conditioning:
    return engine.encode_text(NAME, engine.tokenize(NAME, prompt), TICKET)


def oracle(repository: Path, role: str, **inputs: Array) -> Array:
    session = onnxruntime.InferenceSession(repository / f"{NAME}_{role}" / "1" / "model.onnx")
    return np.asarray(session.run(None, {name: array.astype(np.float32) for name, array in inputs.items()})[0])


def test_outputs_are_those_of_the_files(engine: EmbeddedEngine, repository: Path) -> None:
    tolerance = {"fp32": 1e-5, "bf16": 0.03}[engine.precision]
    rows = [encoded(engine, prompt) for prompt in ("a", "b", "c")]
    x, t = RNG.standard_normal((3, 4, 8, 16)), np.array([999.0, 500.0, 1.0])
    text = np.stack([row.arrays["encoder_hidden_states"] for row in rows])
    expected = oracle(repository, "unet", sample=x, timestep=t, encoder_hidden_states=text)
    found = engine.predict(NAME, "unet", x, t, rows, TICKET)
    assert (found.dtype, found.shape) == (np.float32, (3, 4, 8, 16))
    assert np.linalg.norm(found - expected) <= tolerance * np.linalg.norm(expected)
    latent = RNG.standard_normal((4, 8, 16)) / 4
    expected = oracle(repository, "vae_decoder", latent_sample=latent[None] / 0.5 + 0.25)[0].clip(-1, 1)
    found = engine.decode(NAME, latent, TICKET)
    assert np.linalg.norm(found - expected) <= tolerance * np.linalg.norm(expected)


def test_a_row_has_the_same_bytes_in_every_company(engine: EmbeddedEngine) -> None:
    texts = [encoded(engine, prompt) for prompt in "abcdefghijk"]
    x, t = RNG.standard_normal((11, 4, 8, 8)), RNG.uniform(0, 999, 11)

    def call(rows: list[int]) -> tuple[list[int], Array]:
        return rows, engine.predict(NAME, "unet", x[rows], t[rows], [texts[row] for row in rows], TICKET)

    alone = [call([row])[1][0] for row in range(11)]
    for _ in range(3):  # first on single rows, then on buckets as they get compiled
        companies = [list(RNG.permutation(11)[:size]) for size in (1, 2, 3, 4, 5, 7, 8, 9, 11)]
        with ThreadPoolExecutor(3) as threads:  # beside each other
            together = list(threads.map(call, companies))
        together += [call(rows) for rows in companies]  # and one after another
        for rows, outputs in together:
            for row, output in zip(rows, outputs, strict=True):
                np.testing.assert_array_equal(output, alone[row])
        wait(engine._buckets._compiled.values())
    assert {bucket.shapes[0][1][0] for bucket in engine._buckets._compiled} == {1, 2, 4, 8}


def test_the_gate_changes_no_byte(engine: EmbeddedEngine) -> None:
    gate = Gate(engine, in_flight=engine.lanes, max_rows=8, text_cache=4)
    rows = [encoded(engine, "a"), encoded(engine, "")]
    x, t = RNG.standard_normal((40, 2, 4, 8, 8)), RNG.uniform(0, 999, (40, 2))
    with ThreadPoolExecutor(16) as threads:
        found = list(threads.map(lambda i: gate.predict(NAME, "unet", x[i], t[i], rows, TICKET), range(40)))
    for i in range(40):
        np.testing.assert_array_equal(found[i], engine.predict(NAME, "unet", x[i], t[i], rows, TICKET))


def test_warm_up_compiles_the_default_size(engine: EmbeddedEngine) -> None:
    engine.warm_up(NAME)
    engine.health()
    shapes = {bucket.shapes[0][1] for bucket in engine._buckets._compiled}
    assert {(1, 24), (1, 4, 8, 8), (2, 4, 8, 8)} <= shapes


def picture(repository: Path, cache: Path, precision: str = "fp32") -> bytes:
    """The bytes of a denoising step in a new engine."""
    engine = EmbeddedEngine(repository, open_vino(cache, precision))
    row = encoded(engine, "a")
    output = engine.predict(NAME, "unet", np.ones((1, 4, 8, 8)), np.array([500.0]), [row], TICKET)
    engine.close()
    return output.tobytes()


def test_compiled_networks_are_found_again_and_damaged_ones_made_anew(repository: Path, tmp_path: Path) -> None:
    fresh = picture(repository, tmp_path / "cache")
    kept = {blob: blob.read_bytes() for blob in (tmp_path / "cache").iterdir()}
    assert kept
    assert picture(repository, tmp_path / "cache") == fresh
    assert {blob: blob.read_bytes() for blob in (tmp_path / "cache").iterdir()} == kept
    for damage in (lambda content: content[:-7], lambda content: content[:60] + b"?" + content[61:], lambda _: b""):
        damaged = {blob: damage(content) for blob, content in kept.items()}
        for blob, content in damaged.items():
            blob.write_bytes(content)
        assert picture(repository, tmp_path / "cache") == fresh
        remade = [blob for blob, content in damaged.items() if blob.read_bytes() != content]
        assert remade, "those that the picture waited for; others are compiled in the background"
        assert [blob for blob in remade if len(blob.read_bytes()) != len(kept[blob])] == []


def test_a_cache_serves_only_what_it_was_made_for(repository: Path, tmp_path: Path) -> None:
    full = picture(repository, tmp_path / "cache")
    other = picture(repository, tmp_path / "cache", "auto")
    if open_vino(tmp_path / "cache", "auto").precision == "bf16":
        assert other != full
    changed = tmp_path / "repository"
    shutil.copytree(repository, changed)
    file = changed / f"{NAME}_unet" / "1" / "model.onnx"
    content = file.read_bytes()
    file.write_bytes(content + b"\x00")
    with pytest.raises(Unavailable, match=r"model\.onnx is missing or is not the file"):
        picture(changed, tmp_path / "cache")
    file.unlink()
    with pytest.raises(Unavailable, match=r"model\.onnx is missing or is not the file"):
        picture(changed, tmp_path / "cache")


def test_a_cache_that_cannot_be_written_costs_only_time(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert picture(repository, tmp_path / "file" / "cache") == picture(repository, tmp_path / "cache")


def test_failures_keep_their_details_to_the_log(repository: Path, caplog: pytest.LogCaptureFixture) -> None:
    engine = EmbeddedEngine(repository, OnnxRuntime("auto", 1))
    row = encoded(engine, "a")
    with pytest.raises(EngineFailure, match=r"^the unet of tiny failed$"):
        engine.predict(NAME, "unet", np.ones((1, 5, 8, 8)), np.ones(1), [row], TICKET)
    assert "Got invalid dimensions" in caplog.text
    assert engine.predict(NAME, "unet", np.ones((1, 4, 8, 8)), np.ones(1), [row], TICKET).shape == (1, 4, 8, 8)
    engine.close()


class NoBuckets(OnnxRuntime):
    """Cannot compile for more than one row."""

    def compile(self, file: Path, sha256: str, shapes: Shapes, streams: int) -> Executable:
        if next(iter(shapes.values()))[0] > 1:
            raise MemoryError
        return super().compile(file, sha256, shapes, streams)


def test_buckets_that_cannot_be_compiled_are_done_without(repository: Path) -> None:
    engine = EmbeddedEngine(repository, NoBuckets("auto", 2))
    row = encoded(engine, "a")
    x, t = RNG.standard_normal((4, 4, 8, 8)), np.full(4, 500.0)
    for _ in range(2):
        together = engine.predict(NAME, "unet", x, t, [row] * 4, TICKET)
        wait(engine._buckets._compiled.values())
    for i in range(4):
        np.testing.assert_array_equal(engine.predict(NAME, "unet", x[i : i + 1], t[:1], [row], TICKET)[0], together[i])
    engine.close()


def test_onnx_runtime_steps_in_where_openvino_has_no_wheel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = Settings(cache_dir=tmp_path, threads=1)
    assert isinstance(open_runtime(settings), OpenVino)
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "openvino" else found(name))
    assert isinstance(open_runtime(settings), OnnxRuntime)
    with pytest.raises(Unavailable, match="DARKROOM_PRECISION"):
        open_runtime(settings.model_copy(update={"precision": "bf16"}))


@pytest.mark.slow
def test_the_shipped_model_keeps_the_contract(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buckets, "IDLE", float("inf"))  # who calls after another never counts as alone: 8 rows stay 8
    settings = Settings(cache_dir=tmp_path)
    engine = EmbeddedEngine(settings.model_repository, open_runtime(settings))
    name = settings.default_model
    model = engine.models[name]
    side = model.sizes[0][0] // model.latent.factor
    texts = [engine.encode_text(name, engine.tokenize(name, prompt), TICKET) for prompt in "abcdefgh"]
    x = RNG.standard_normal((8, model.latent.channels, side, side))
    t = RNG.uniform(0, 999, 8)

    def call(rows: slice) -> Array:
        return engine.predict(name, "unet", x[rows], t[rows], texts[rows], TICKET)

    alone = np.concatenate([call(slice(row, row + 1)) for row in range(8)])
    for size in (1, 2, 4, 8):  # first asked for, then compiled, then used
        call(slice(0, size))
        wait(engine._buckets._compiled.values())
        with ThreadPoolExecutor(2) as threads:
            beside = list(threads.map(call, [slice(start, start + size) for start in range(0, 8, size)]))
        np.testing.assert_array_equal(np.concatenate(beside), alone)
    rows = {bucket.shapes[0][1][0] for bucket in engine._buckets._compiled if bucket.source.shared}
    assert rows == {1, 2, 4, 8}
    engine.close()


def test_engines_come_and_go_without_leaving_signals_a_freed_stack(tmp_path: Path) -> None:
    before = signals.get().address
    runtimes = [OpenVino("auto", 1, tmp_path) for _ in range(2)]
    assert signals.get().address == before
    while runtimes:
        del runtimes[0]  # the oldest first: each plugin puts back what it found
        assert signals.get().address in (before, None)
