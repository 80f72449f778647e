"""The repository agrees with the contract, and is replaced in whole."""

import hashlib
import math
import os

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from click.testing import CliRunner
from diffusers import DDPMScheduler, StableDiffusionPipeline
from google.protobuf import text_format
from tokenizers import Tokenizer
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig

from export import families, repository
from export.__main__ import main
from export.checkpoint import Checkpoint
from export.weights import load_state_dict
from service.engines.contract import DESCRIPTION, load_descriptions
from service.engines.embedded import EmbeddedEngine
from service.engines.runtimes import OpenVino
from service.errors import Unavailable
from tests.conftest import Exported


def config(exported: Exported, role: str) -> ModelConfig:
    entry = exported.description.networks[role].entry
    return text_format.Parse((exported.repository / entry / "config.pbtxt").read_text(), ModelConfig())


@pytest.mark.parametrize("role", ["text_encoder", "unet", "vae_decoder"])
def test_config_equals_the_contract(exported, role) -> None:
    network, found = exported.description.networks[role], config(exported, role)
    assert found.name == network.entry
    assert found.parameters["digest"].string_value == network.digest == network.sha256[:16]
    for ports, tensors in ((found.input, network.inputs), (found.output, network.outputs)):
        assert [port.name for port in ports] == [tensor.name for tensor in tensors]
        for port, tensor in zip(ports, tensors, strict=True):
            assert DataType.Name(port.data_type) == f"TYPE_{tensor.dtype.upper()}"
            shape = list(port.reshape.shape) if port.HasField("reshape") else list(port.dims)
            assert shape == list(tensor.shape)
            assert math.prod(port.dims) == math.prod(tensor.shape)


def test_triton_admits_everything_and_batches_mixed_sizes(exported) -> None:
    found = config(exported, "unet")
    assert not found.dynamic_batching.HasField("default_queue_policy")
    assert [port.name for port in found.input if port.allow_ragged_batch] == ["sample"]


def test_description_on_disk_is_the_one_returned(exported) -> None:
    description, folder = load_descriptions(exported.repository)["tiny"]
    assert description == exported.description
    assert description.digest == exported.description.digest
    assert folder == exported.repository / "tiny_unet" / DESCRIPTION
    for role, network in description.networks.items():
        assert hashlib.sha256(exported.onnx(role).read_bytes()).hexdigest() == network.sha256


def test_description_says_what_the_checkpoint_is(exported) -> None:
    description = exported.description
    scheduler = DDPMScheduler.from_pretrained(exported.checkpoint, subfolder="scheduler")
    assert description.noise_schedule.prediction == "v"
    np.testing.assert_array_equal(description.noise_schedule.alphas_cumprod, scheduler.alphas_cumprod.double())
    assert (description.latent.channels, description.latent.factor, description.latent.scale) == (4, 2, 0.5)
    assert description.sizes == ((16, 16), (32, 16))


def test_weights_beyond_protobuf_lie_beside_the_graph(exported, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(repository, "LARGE", 0)
    network = families.load(Checkpoint(exported.checkpoint)).vae_decoder
    inside, digests = exported.onnx("vae_decoder"), set()
    for entry in ("first", "second"):
        graph = ir.load(inside)
        bias = graph.graph.initializers["decoder.conv_out.bias"]
        if entry == "second":
            bias.const_value = ir.tensor(bias.const_value.numpy() + 1, name=bias.name)
        digests.add(repository.write_onnx(network, graph, tmp_path / entry).sha256)
        assert (tmp_path / entry / "1" / "model.onnx.data").stat().st_size > 1000
    assert len(digests) == 2, "the digest covers the weights beside the graph"
    stored, expected = load_state_dict(tmp_path / "first" / "1" / "model.onnx"), load_state_dict(inside)
    assert all(torch.equal(stored.pop(name), tensor) for name, tensor in expected.items())
    assert not stored
    latent = np.ones((1, 4, 4, 6), np.float32)
    pictures = [
        onnxruntime.InferenceSession(file).run(None, {"latent_sample": latent})[0]
        for file in (inside, tmp_path / "first" / "1" / "model.onnx")
    ]
    np.testing.assert_array_equal(*pictures)


def test_weights_that_are_not_those_of_the_description_are_refused(exported, tmp_path, monkeypatch) -> None:
    """A model over 2 GB, in small: the graph is whole, the file beside it is not."""
    monkeypatch.setattr(repository, "LARGE", 0)
    folder = tmp_path / "repository"
    result = CliRunner().invoke(main, [str(exported.checkpoint), "--out", str(folder), "--name", "tiny"])
    assert result.exit_code == 0, result.output
    runtime = OpenVino("fp32", 2, tmp_path / "cache")
    EmbeddedEngine(folder, runtime).health()
    weights = folder / "tiny_unet" / "1" / "model.onnx.data"
    content = bytearray(weights.read_bytes())
    content[1000] ^= 1
    for damage in (lambda: weights.write_bytes(content), lambda: os.truncate(weights, 1000), weights.unlink):
        damage()
        with pytest.raises(Unavailable, match=r"tiny_unet.* is missing or is not the file"):
            EmbeddedEngine(folder, runtime)


@pytest.mark.parametrize("prompt", ["", "a red cube", "Ünïcode 🙂 <|endoftext|> 42"])
def test_tokenizer_gives_the_ids_of_the_pipeline(exported, prompt) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(exported.checkpoint)
    (entry,) = exported.description.tokenizers
    ids = Tokenizer.from_file(str(exported.repository / "tiny_unet" / DESCRIPTION / entry.file)).encode(prompt).ids
    expected = pipeline.tokenizer(prompt, padding="max_length", max_length=entry.max_length).input_ids
    assert ids + [entry.pad_id] * (entry.max_length - len(ids)) == expected
