"""Denoisers that return their input, in the shapes of real models: what is left is the way there and back."""

import hashlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto, helper

from export.triton_config import configure
from service.engines.contract import (
    DESCRIPTION,
    Array,
    Conditioning,
    Engine,
    Network,
    Tensor,
    Ticket,
    load_descriptions,
)

ROWS = 2


@dataclass(frozen=True)
class Payload:
    """What one row of a step carries."""

    dtype: Literal["fp32", "fp16"]
    latent: tuple[int, int, int]
    conditioning: Mapping[str, tuple[int, ...]]


PAYLOADS = {
    "postcard": Payload("fp32", (16, 16, 16), {"encoder_hidden_states": (77, 192)}),
    "sdxl": Payload("fp16", (4, 128, 128), {"encoder_hidden_states": (77, 2048), "text_embeds": (1280,)}),
}


def add_null_models(repository: Path) -> None:
    """One model per payload, with nothing but a denoiser."""
    origin, folder = load_descriptions(repository)["postcard"]
    for name, payload in PAYLOADS.items():
        entry = repository / f"null-{name}_unet"
        sample = Tensor(name="sample", dtype=payload.dtype, shape=(payload.latent[0], -1, -1))
        clock = Tensor(name="timestep", dtype=payload.dtype, shape=())
        text = [Tensor(name=key, dtype=payload.dtype, shape=shape) for key, shape in payload.conditioning.items()]
        output = sample.model_copy(update={"name": "out_sample"})
        (entry / "1").mkdir(parents=True)
        network = Network(
            entry=entry.name,
            file="model.onnx",
            sha256=_write_identity(entry / "1" / "model.onnx", [sample, clock, *text, output]),
            inputs=(sample, clock, *text),
            outputs=(output,),
        )
        model = origin.model_copy(update={"name": f"null-{name}", "networks": {"unet": network}})
        configure(entry, model, "unet")
        shutil.copytree(folder, entry / DESCRIPTION)
        (entry / DESCRIPTION / "model.json").write_text(model.model_dump_json())


def denoiser_call(engine: Engine, name: str, *, shared: bool) -> Callable[[], Array]:
    """One step of two rows; its conditioning may be shared, or travels in every step as what is made for one does."""
    payload = PAYLOADS[name]
    rng = np.random.default_rng(0)
    x, timestep = rng.standard_normal((ROWS, *payload.latent)), np.full(ROWS, 500.0)
    arrays = {key: rng.standard_normal(shape).astype(np.float32) for key, shape in payload.conditioning.items()}
    rows = [Conditioning(arrays, name if shared else "")] * ROWS
    return lambda: engine.predict(f"null-{name}", "unet", x, timestep, rows, Ticket())


def _write_identity(file: Path, tensors: list[Tensor]) -> str:
    """Write the graph, whose output is the last tensor, and return its digest."""
    kinds = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16}
    ports = [
        helper.make_tensor_value_info(
            tensor.name, kinds[tensor.dtype], ["n", *(d if d > 0 else f"d{i}" for i, d in enumerate(tensor.shape))]
        )
        for tensor in tensors
    ]
    node = helper.make_node("Identity", ["sample"], [tensors[-1].name])
    graph = helper.make_graph([node], "null", ports[:-1], ports[-1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), file)
    return hashlib.sha256(file.read_bytes()).hexdigest()
