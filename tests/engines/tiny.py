"""A model repository made in milliseconds: three small ONNX graphs of the kinds of layers that real networks have."""

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer as TextTokenizer
from tokenizers import models, pre_tokenizers, processors

from service.engines.contract import (
    DESCRIPTION,
    Latent,
    ModelDescription,
    Network,
    NoiseSchedule,
    Tensor,
    Tokenizer,
)

NAME = "tiny"
CHANNELS, FACTOR, TOKENS, WIDTH = 4, 8, 24, 32
RNG = np.random.default_rng(0)


def write_repository(repository: Path) -> ModelDescription:
    """Text encoder (embedding), unet (convolution, cross-attention, clock) and decoder (depth to space)."""
    text = Tensor(name="encoder_hidden_states", dtype="fp32", shape=(TOKENS, WIDTH))
    latent = {"dtype": "fp32", "shape": (CHANNELS, -1, -1)}
    clock = Tensor(name="timestep", dtype="fp32", shape=())
    pixels = Tensor(name="sample", dtype="fp32", shape=(3, -1, -1))
    ids = Tensor(name="input_ids", dtype="int64", shape=(TOKENS,))
    graphs = {
        "text_encoder": (text_encoder(), (ids,), text),
        "unet": (unet(), (Tensor(name="sample", **latent), clock, text), Tensor(name="out_sample", **latent)),
        "vae_decoder": (vae_decoder(), (Tensor(name="latent_sample", **latent),), pixels),
    }
    networks = {}
    for role, (graph, inputs, output) in graphs.items():
        content = save(graph, repository / f"{NAME}_{role}" / "1" / "model.onnx", (*inputs, output))
        networks[role] = Network(
            entry=f"{NAME}_{role}",
            file="model.onnx",
            sha256=hashlib.sha256(content).hexdigest(),
            inputs=inputs,
            outputs=(output,),
        )
    description = ModelDescription(
        name=NAME,
        family="stable-diffusion",
        noise_schedule=NoiseSchedule(kind="vp", prediction="v", alphas_cumprod=(0.9, 0.5, 0.1)),
        latent=Latent(channels=CHANNELS, factor=FACTOR, scale=0.5, shift=0.25),
        sizes=((64, 64), (128, 64)),
        default_preset="balanced",
        tokenizers=(Tokenizer(file="tokenizer.json", max_length=TOKENS, pad_id=1),),
        networks=networks,
        preview=((0.0, 0.0, 0.0),) * (CHANNELS + 1),
    )
    folder = repository / f"{NAME}_unet" / DESCRIPTION
    folder.mkdir(parents=True)
    (folder / "model.json").write_text(description.model_dump_json())
    (folder / "tokenizer.json").write_text(tokenizer())
    return description


def tokenizer() -> str:
    """Bytes between a start and an end mark, with a truncation that its training left behind."""
    vocabulary = {"<s>": 0, "</s>": 1} | {c: i + 2 for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    made = TextTokenizer(models.BPE(vocab=vocabulary, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])
    made.enable_truncation(4)
    return json.dumps(json.loads(made.to_str()))


def text_encoder() -> list[onnx.NodeProto]:
    return [
        constant("table", RNG.standard_normal((258, WIDTH))),
        helper.make_node("Gather", ["table", "input_ids"], ["encoder_hidden_states"]),
    ]


def unet() -> list[onnx.NodeProto]:
    """out = conv(x) + attention(conv(x), text) * clock, with 32 inner channels."""
    node = helper.make_node
    return [
        constant("kernel", RNG.standard_normal((WIDTH, CHANNELS, 3, 3)) / 6),
        constant("final", RNG.standard_normal((CHANNELS, WIDTH, 3, 3)) / 17),
        constant("per_pixel", np.array([0, WIDTH, -1]), np.int64),
        constant("per_row", np.array([-1, 1, 1]), np.int64),
        constant("thousandth", np.array([0.001])),
        node("Conv", ["sample", "kernel"], ["a"], pads=[1, 1, 1, 1]),
        node("Shape", ["a"], ["shape"]),
        node("Reshape", ["a", "per_pixel"], ["flat"]),
        node("MatMul", ["encoder_hidden_states", "flat"], ["scores"]),  # [B, T, hw]
        node("Softmax", ["scores"], ["weights"], axis=1),
        node("Transpose", ["encoder_hidden_states"], ["values"], perm=[0, 2, 1]),
        node("MatMul", ["values", "weights"], ["attended"]),
        node("Reshape", ["timestep", "per_row"], ["clock"]),
        node("Mul", ["clock", "thousandth"], ["small"]),
        node("Mul", ["attended", "small"], ["scaled"]),
        node("Add", ["flat", "scaled"], ["sum"]),
        node("Reshape", ["sum", "shape"], ["b"]),
        node("Conv", ["b", "final"], ["out_sample"], pads=[1, 1, 1, 1]),
    ]


def vae_decoder() -> list[onnx.NodeProto]:
    return [
        constant("kernel", RNG.standard_normal((3 * FACTOR**2, CHANNELS, 3, 3)) / 6),
        helper.make_node("Conv", ["latent_sample", "kernel"], ["deep"], pads=[1, 1, 1, 1]),
        helper.make_node("DepthToSpace", ["deep"], ["sample"], blocksize=FACTOR),
    ]


def constant(name: str, value: np.ndarray, dtype: type = np.float32) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value.astype(dtype), name))


def save(nodes: list[onnx.NodeProto], file: Path, tensors: tuple[Tensor, ...]) -> bytes:
    kinds = {"fp32": TensorProto.FLOAT, "int64": TensorProto.INT64}
    values = [
        helper.make_tensor_value_info(
            tensor.name,
            kinds[tensor.dtype],
            ["batch", *(dim if dim > 0 else f"{tensor.name}_{i}" for i, dim in enumerate(tensor.shape))],
        )
        for tensor in tensors
    ]
    graph = helper.make_graph(nodes, file.parent.parent.name, values[:-1], values[-1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    file.parent.mkdir(parents=True)
    file.write_bytes(model.SerializeToString())
    return file.read_bytes()
