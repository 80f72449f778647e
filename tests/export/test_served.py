"""Exports in half precision, served: the picture is the fp32 one but for rounding, and the same behind Triton."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from export.__main__ import main
from export.triton_server import TritonServer
from service.engines.contract import Engine, Ticket, load_descriptions
from service.engines.embedded import EmbeddedEngine
from service.engines.runtimes import OnnxRuntime, OpenVino
from service.engines.triton import TritonEngine
from service.pipeline import generate
from service.recipe import Overrides, load_presets, resolve
from tests.conftest import Exported

LEAST_DB = {"fp16": 50.0, "bf16": 30.0}

Repository = Callable[..., Path]


@pytest.fixture(scope="module")
def repository(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """The tiny model in the precision, exported once."""
    made: dict[tuple[str, ...], Path] = {}

    def export(*options: str) -> Path:
        if options not in made:
            made[options] = tmp_path_factory.mktemp("repository")
            arguments = [exported.checkpoint, "--out", made[options], "--name", "tiny", "--precision", *options]
            result = CliRunner().invoke(main, [*map(str, arguments), "--size", "16x16"], catch_exceptions=False)
            assert result.exit_code == 0, result.output
        return made[options]

    return export


def picture(engine: Engine) -> NDArray[Any]:
    wanted = Overrides(prompt="a red cube", seed=7, num_inference_steps=4)
    recipe = resolve(wanted, load_presets(), engine.models, engine.name, engine.precision)
    return generate(engine, recipe, Ticket()).pixels


def decibel(found: NDArray[Any], expected: NDArray[Any]) -> float:
    return float(20 * np.log10(255 / max(np.sqrt(np.mean((found.astype(float) - expected) ** 2)), 1e-9)))


@pytest.fixture(scope="module")
def expected(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> NDArray[Any]:
    pixels = picture(EmbeddedEngine(exported.repository, OpenVino("fp32", 2, tmp_path_factory.mktemp("cache"))))
    assert pixels.std() > 5, "a flat picture proves nothing"
    return pixels


@pytest.mark.parametrize(
    ("precision", "runtime"),
    [("fp16", "openvino fp32"), ("fp16", "openvino auto"), ("fp16", "onnxruntime"), ("bf16", "openvino auto")],
)
def test_the_embedded_engine_serves_it(repository, expected, tmp_path, precision, runtime) -> None:
    name, *hint = runtime.split()
    opened = OpenVino(*hint, 2, tmp_path) if name == "openvino" else OnnxRuntime("auto", 2)
    engine = EmbeddedEngine(repository(precision), opened)
    assert {network.precision for network in engine.models["tiny"].networks.values()} == {precision, "fp32"}
    assert decibel(picture(engine), expected) > LEAST_DB["bf16" if engine.precision == "bf16" else precision]
    engine.close()


@pytest.mark.triton
def test_triton_serves_fp16(repository, expected) -> None:
    folder = repository("fp16")
    with TritonServer(folder) as server:
        engine = TritonEngine(folder, [server.url])
        engine.health()
        found = picture(engine)
        engine.close()
    near = EmbeddedEngine(folder, OpenVino("auto", 2, folder / ".cache"))
    np.testing.assert_array_equal(found, picture(near))
    near.close()
    assert decibel(found, expected) > LEAST_DB["bf16"]


def test_a_mixed_export_is_served(repository, expected, tmp_path) -> None:
    folder = repository("fp16", "--autocast")
    description, _ = load_descriptions(folder)["tiny"]
    assert {network.precision for network in description.networks.values()} == {"fp16"}
    engine = EmbeddedEngine(folder, OpenVino("fp32", 2, tmp_path))
    assert decibel(picture(engine), expected) > LEAST_DB["fp16"]
    engine.close()
