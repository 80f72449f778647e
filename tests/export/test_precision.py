"""The arithmetic of the graph: fp16 and bf16 in the tensors, the weights and the ports."""

import onnx_ir as ir
import pytest
import torch

from export import families
from export.autocast import autocast
from export.checkpoint import Checkpoint
from export.graph import trace
from export.networks import STORED
from export.text_encoders import T5, Clip
from export.verification import TOLERANCE, open_network
from export.weights import load_state_dict
from tests.families import t5
from tests.models import clip_text, clip_tokenizer

INSIDE = {"fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}
PORTS = {"fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.FLOAT}  # NumPy has no bf16


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_network_computes_in_the_precision(precision, tmp_path) -> None:
    torch.manual_seed(0)
    network = T5(t5(16)[1].eval(), 12)
    inputs = network.example(2, 1, 1)
    with torch.no_grad():
        expected = network(*inputs)[0]
    network.compute_in(precision)
    graph = trace(network, STORED[precision])
    ir.save(graph, tmp_path / "model.onnx")
    products = [node.outputs[0].dtype for node in graph.graph if node.op_type == "MatMul"]
    assert products.count(INSIDE[precision]) > len(products) / 2  # T5 keeps some layers in fp32
    assert [value.dtype for value in graph.graph.outputs] == [PORTS[precision]] * 2
    assert [port.tensor.dtype for port in network.outputs] == [{"fp16": "fp16", "bf16": "fp32"}[precision]] * 2
    assert {tensor.dtype for tensor in load_state_dict(tmp_path / "model.onnx").values()} == {STORED[precision]}
    found = open_network(tmp_path / "model.onnx", precision)({"input_ids": inputs[0].numpy()})
    drift = abs(found["encoder_hidden_states"] - expected.numpy()).max() / expected.abs().max()
    assert 0 < drift < TOLERANCE[precision]


def test_the_clock_and_a_decoder_that_overflows_stay_in_fp32(exported) -> None:
    model = families.load(Checkpoint(exported.checkpoint))
    for network in model.networks:
        network.compute_in("fp16")
    assert {port.name: port.dtype for port in model.denoiser.inputs} == {
        "sample": "fp16",
        "timestep": "fp32",
        "encoder_hidden_states": "fp16",
    }
    assert model.vae_decoder.module.config.force_upcast
    assert {port.dtype for port in (*model.vae_decoder.inputs, *model.vae_decoder.outputs)} == {"fp32"}
    assert model.vae_decoder.module.decoder.conv_in.weight.dtype is torch.float32


def test_autocast_keeps_in_fp32_what_fp16_cannot_hold(tmp_path) -> None:
    """A layer whose output reaches 1e5: fp16 ends at 65504."""
    torch.manual_seed(0)
    module = clip_text(clip_tokenizer(), layers=1).requires_grad_(False).eval()
    layer = module.encoder.layers[0].mlp
    torch.nn.init.constant_(layer.fc1.bias, 1e5)
    layer.fc2.weight.mul_(1e-3)
    network = Clip(module)
    inputs = network.example(2, 1, 1)
    expected = network(*inputs)
    graph = autocast(network, trace(network, torch.float32), "fp16")
    dtypes = [node.outputs[0].dtype for node in graph.graph if node.op_type in ("MatMul", "Gemm")]
    assert {ir.DataType.FLOAT16, ir.DataType.FLOAT} <= set(dtypes)
    assert network.precision == "fp16"
    ir.save(graph, tmp_path / "model.onnx")
    found = open_network(tmp_path / "model.onnx", "fp16")({"input_ids": inputs[0].numpy()})["encoder_hidden_states"]
    assert abs(found - expected.numpy()).max() < TOLERANCE["fp16"] * abs(expected).max()
    assert not torch.isfinite(Clip(module.half())(*inputs)).all(), "without AutoCast it overflows"
