"""What is written for every target, and that Triton takes it."""

import re
import shutil
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import onnxruntime
import pytest
from click.testing import CliRunner, Result
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelInstanceGroup

from export.__main__ import main
from export.targets import TARGETS
from export.triton_config import BACKEND, TORCH
from export.triton_server import TritonServer
from export.weights import rebuild
from service.engines.contract import Conditioning, Ticket, load_descriptions
from service.engines.embedded import EmbeddedEngine
from service.engines.runtimes import OpenVino
from service.engines.triton import TritonEngine
from service.errors import InvalidRequest, Unavailable
from tests.conftest import Exported


def export(*arguments: object) -> Result:
    return CliRunner().invoke(main, [*map(str, arguments)])


@pytest.fixture
def repository(exported: Exported, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported.repository, tmp_path / "repository"))


def config_of(repository: Path, entry: str) -> ModelConfig:
    return text_format.Parse((repository / entry / "config.pbtxt").read_text(), ModelConfig())


@pytest.mark.parametrize(
    ("target", "backend", "kind", "files"),
    [
        ("python-openvino", "python", "KIND_CPU", {"model.py"}),
        ("python-onnxruntime", "python", "KIND_CPU", {"model.py"}),
        ("onnxruntime", "onnxruntime", "KIND_AUTO", set()),
        ("tensorrt", "tensorrt", "KIND_GPU", set()),
    ],
)
def test_an_exported_model_changes_its_target(repository, target, backend, kind, files) -> None:
    result = export("configure", repository, "--target", target)
    assert result.exit_code == 0, result.output
    for role, network in load_descriptions(repository)["tiny"][0].networks.items():
        config = config_of(repository, network.entry)
        assert (config.name, config.backend) == (network.entry, backend)
        assert ModelInstanceGroup.Kind.Name(config.instance_group[0].kind) == kind
        assert config.parameters["digest"].string_value == network.digest
        found = {file.name for file in (repository / network.entry / "1").iterdir()}
        assert found == {"model.onnx"} | files
        runtime = config.parameters["runtime"].string_value
        assert runtime == TARGETS[target].runtime
        ragged = {"unet": ["sample"], "vae_decoder": ["latent_sample"]}.get(role, []) if runtime else []
        assert [port.name for port in config.input if port.allow_ragged_batch] == ragged
        assert not config.dynamic_batching.HasField("default_queue_policy")


def test_options_of_other_targets_and_other_files_are_refused(repository) -> None:
    assert (
        "--attention is no option of tensorrt"
        in export("configure", repository, "--target", "tensorrt", "--attention", "sdpa").output
    )
    refused = export("configure", repository, "--target", "python-torch")
    assert refused.exit_code == 1
    assert "tiny_text_encoder holds no model.pt2: export it again for python-torch" in refused.output
    for arguments in (["--autocast"], ["--autocast", "--precision", "fp16", "--target", "python-torch"]):
        refused = export(repository, "--out", repository, *arguments)
        assert "--autocast needs ONNX, and --precision fp16 or bf16" in refused.output


def test_torch_programs_are_described_and_verified(exported, tmp_path) -> None:
    """The whole way of the torch target, its options included; the embedded engine says that it is not for it."""
    folder = tmp_path / "repository"
    size = ("--name", "tiny", "--size", "16x16", "--precision", "fp16")
    options = ("--target", "python-torch", "--attention", "xformers", "--compile", "off")
    result = export(exported.checkpoint, "--out", folder, *size, *options)
    assert result.exit_code == 0, result.output
    description, _ = load_descriptions(folder)["tiny"]
    assert description.model_copy(update={"networks": {}, "sizes": ()}) == exported.description.model_copy(
        update={"networks": {}, "sizes": ()}
    )
    for role, network in description.networks.items():
        version = folder / network.entry / "1"
        assert {file.name for file in version.iterdir()} == {"model.pt2", "model.py", "torch_runtime.py"}
        assert (version / "model.py").read_bytes() == BACKEND.read_bytes()
        assert (version / "torch_runtime.py").read_bytes() == TORCH.read_bytes()
        content = (version / "model.pt2").read_bytes()
        assert b"/" + b"site-packages" not in content
        parameters = {key: value.string_value for key, value in config_of(folder, network.entry).parameters.items()}
        wanted = {"runtime": "torch", "attention": "xformers", "compile": "off", "digest": network.digest}
        assert parameters == wanted | {"precision": "fp32" if role == "vae_decoder" else "fp16"}
    result = export("verify", exported.checkpoint, folder, "--name", "tiny")
    assert result.exit_code == 0, result.output
    with pytest.raises(InvalidRequest, match=r"model\.pt2 is no ONNX, from which alone"):
        rebuild(folder, "tiny")
    with pytest.raises(Unavailable, match="was exported for Triton with torch; the embedded engine runs ONNX"):
        EmbeddedEngine(folder, OpenVino("fp32", 2, tmp_path / "cache"))


@pytest.mark.triton
def test_triton_takes_the_warm_up_and_serves(repository, exported) -> None:
    """The warm-up of a GPU target, in a configuration that runs here."""
    description = exported.description
    assert export("configure", repository, "--target", "onnxruntime").exit_code == 0
    samples = {n.entry: config_of(repository, n.entry).model_warmup for n in description.networks.values()}
    assert export("configure", repository, "--target", "python-openvino").exit_code == 0
    for entry, warm_up in samples.items():
        config = config_of(repository, entry)
        config.max_batch_size = 16
        config.model_warmup.MergeFrom(warm_up)
        (repository / entry / "config.pbtxt").write_text(text_format.MessageToString(config))
    with TritonServer(repository, patience=300) as server:
        metrics = urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics").read().decode()
        engine = TritonEngine(repository, [server.url])
        engine.health()
        engine.close()
    for role, network in description.networks.items():
        (rows,) = re.findall(rf'darkroom_execution_rows_sum{{model="{network.entry}"[^}}]*}} (\d+)', metrics)
        sizes = 1 if role == "text_encoder" else 2
        assert int(rows) == 3 * sizes * sum(TARGETS["onnxruntime"].ready_rows(role))


@pytest.mark.triton
def test_triton_runs_onnx_runtime(repository, exported) -> None:
    """By the bits that ONNX Runtime has for every row alone."""
    assert export("configure", repository, "--target", "python-onnxruntime").exit_code == 0
    rng = np.random.default_rng(0)
    x, t = rng.standard_normal((3, 4, 8, 4)).astype(np.float32), np.array([7, 500, 900], np.float32)
    text = rng.standard_normal((3, 77, 32)).astype(np.float32)
    rows = [Conditioning({"encoder_hidden_states": row}, "") for row in text]
    with TritonServer(repository) as server:
        engine = TritonEngine(repository, [server.url])
        engine.health()
        found = engine.predict("tiny", "unet", x, t, rows, Ticket())
        assert engine.precision == "fp32"
        engine.close()
    session = onnxruntime.InferenceSession(exported.onnx("unet"))
    names = [port.name for port in session.get_inputs()]
    for row in range(3):
        feeds = dict(zip(names, (array[row : row + 1] for array in (x, t, text)), strict=True))
        np.testing.assert_array_equal(found[row : row + 1], session.run(None, feeds)[0])
