"""The arithmetic of the graph: fp16 and bf16 in the tensors, the weights and the ports."""

import onnx_ir as ir
import pytest
import torch

from export import families
from export.checkpoint import Checkpoint
from export.graph import trace
from export.networks import STORED
from export.text_encoders import T5
from export.verification import TOLERANCE, compile_network
from export.weights import load_state_dict
from tests.families import t5

ONNX_DTYPES = {"fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}


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
    assert [value.dtype for value in graph.graph.outputs] == [ONNX_DTYPES[precision]] * 2
    assert [port.tensor.dtype for port in network.outputs] == [precision] * 2
    assert {tensor.dtype for tensor in load_state_dict(tmp_path / "model.onnx").values()} == {STORED[precision]}
    found = compile_network(tmp_path / "model.onnx", precision)({"input_ids": inputs[0].numpy()})
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
