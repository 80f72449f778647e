"""verify passes a faithful export and fails any other."""

import shutil
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import numpy_helper

from export.__main__ import main
from tests.conftest import Exported


def verify(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["verify", *map(str, arguments)])


@pytest.fixture
def copy(exported: Exported, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported.repository, tmp_path / "repository"))


def corrupt(file: Path, initializer: str, factor: float) -> None:
    model = onnx.load(file)
    (stored,) = (tensor for tensor in model.graph.initializer if tensor.name == initializer)
    stored.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(stored) * stored_type(stored, factor), initializer))
    onnx.save(model, file)


def stored_type(stored: onnx.TensorProto, factor: float) -> object:
    return numpy_helper.to_array(stored).dtype.type(factor)


def test_a_faithful_export_passes(exported) -> None:
    result = verify(exported.checkpoint, exported.repository, "--name", "tiny")
    assert result.exit_code == 0, result.output
    assert "DRIFT" not in result.output
    for role in exported.description.networks:
        assert result.output.count(f"ok    {role} ") == 3


@pytest.mark.parametrize(
    ("role", "parameter", "factor"),
    [
        ("text_encoder", "final_layer_norm.weight", 1.01),
        ("unet", "conv_in.weight", 1.01),
        ("vae_decoder", "decoder.conv_out.weight", float("nan")),
    ],
)
def test_a_changed_weight_is_found(exported, copy, role, parameter, factor) -> None:
    entry = exported.description.networks[role]
    corrupt(copy / entry.entry / "1" / entry.file, parameter, factor)
    result = verify(exported.checkpoint, copy, "--name", "tiny")
    assert result.exit_code == 1
    assert f"DRIFT {role} " in result.output
    assert "drift" in result.output.splitlines()[-1]


@pytest.mark.parametrize("damage", [lambda file: file.unlink(), lambda file: file.write_bytes(b"not ONNX")])
def test_a_file_that_is_no_network_is_named(exported, copy, damage) -> None:
    file = copy / "tiny_unet" / "1" / "model.onnx"
    damage(file)
    result = verify(exported.checkpoint, copy, "--name", "tiny")
    assert result.exit_code == 1
    assert f"{file} cannot be loaded" in result.output


def test_an_unknown_model_is_named(exported) -> None:
    result = verify(exported.checkpoint, exported.repository)
    assert result.exit_code == 1
    assert "holds no model checkpoint; its models: tiny" in result.output
