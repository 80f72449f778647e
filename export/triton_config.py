"""How Triton runs an entry: config.pbtxt from the self-description of its model, and the Python backend's code."""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from google.protobuf import text_format  # type: ignore[import-untyped]
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig, ModelInstanceGroup

from export.plans import profiles
from export.targets import DEFAULT, PLAN, TARGETS, Target
from service.engines.contract import ModelDescription, Tensor
from service.engines.tensors import blank_row
from service.errors import InvalidRequest

BACKEND = Path(__file__).with_name("triton_model.py")
TORCH = Path(__file__).with_name("torch_runtime.py")
WARM = 3  # calls of a shape: torch's CUDA graphs are run, recorded and replayed
Shapes = Mapping[str, tuple[int, ...]]  # input -> its shape in one row


def configure(
    folder: Path, model: ModelDescription, role: str, target: str = DEFAULT, options: Mapping[str, str] | None = None
) -> None:
    """Write what one entry needs beside its network; ``options`` are those of the target's runtime."""
    kind = TARGETS[target]
    if model.networks[role].file != kind.file:
        raise InvalidRequest(f"{folder.name} holds no {kind.file}: export it again for {target}", field="target")
    given = {name: (options or {}).get(name, values[0]) for name, values in kind.options.items()}
    (folder / "config.pbtxt").write_text(config_pbtxt(model, role, target, given))
    sources = {"model.py": BACKEND if kind.runtime else None, TORCH.name: TORCH if kind.runtime == "torch" else None}
    for name, source in sources.items():
        (folder / "1" / name).unlink(missing_ok=True)
        if source:
            shutil.copyfile(source, folder / "1" / name)


def config_pbtxt(model: ModelDescription, role: str, target: str, options: Mapping[str, str]) -> str:
    """Dynamic batching with an empty queue policy, since admission is the gateway's; warm-up where there is a GPU."""
    network, kind = model.networks[role], TARGETS[target]
    config = ModelConfig(name=network.entry, backend=kind.backend, max_batch_size=kind.max_rows(role))
    for tensor in network.inputs:
        ragged = bool(kind.runtime) and -1 in tensor.shape  # the generic model.py groups what has one shape
        _fill(config.input.add(allow_ragged_batch=ragged), tensor)
    for tensor in network.outputs:
        _fill(config.output.add(), tensor)
    config.dynamic_batching.SetInParent()
    config.instance_group.add(count=1, kind=ModelInstanceGroup.Kind.Value(kind.kind))
    parameters = {"digest": network.digest, "precision": network.precision if kind.gpu else "auto"}
    if kind.runtime:
        parameters |= {"runtime": kind.runtime, **options}
    for key, value in parameters.items():
        config.parameters[key].string_value = value
    for rows, shapes in _calls(model, role, kind):
        _warm_up(config, rows, shapes)
    if target == "tensorrt":
        _plan(config, model, role)
    return "# Written by python -m export.\n" + text_format.MessageToString(config)


def _calls(model: ModelDescription, role: str, kind: Target) -> Iterator[tuple[int, Shapes]]:
    """Rows and shapes of the calls that a server is to be ready for."""
    shapes = [{name: row.shape[1:] for name, row in blank_row(model, role, size).items()} for size in model.sizes]
    for index, shape in enumerate(shapes):
        if shape not in shapes[:index]:
            yield from ((rows, shape) for rows in kind.ready_rows(role))


def _warm_up(config: ModelConfig, rows: int, shapes: Shapes) -> None:
    """Calls of zeros, before the server is ready."""
    sides = "x".join(str(side) for side in next(iter(shapes.values())))
    sample = config.model_warmup.add(name=f"{rows} of {sides}", batch_size=rows, count=WARM)
    for port in config.input:
        sample.inputs[port.name].data_type = port.data_type
        sample.inputs[port.name].dims.extend(shapes[port.name] or (1,))
        sample.inputs[port.name].zero_data = True


def _plan(config: ModelConfig, model: ModelDescription, role: str) -> None:
    """All profiles of the plan, and a CUDA graph for each call of the warm-up."""
    config.platform = "tensorrt_plan"
    config.default_model_filename = PLAN
    config.instance_group[0].profile.extend(str(index) for index in range(len(profiles(model, role))))
    config.optimization.cuda.graphs = True
    for rows, shapes in _calls(model, role, TARGETS["tensorrt"]):
        graph = config.optimization.cuda.graph_spec.add(batch_size=rows)
        for name, shape in shapes.items():
            graph.input[name].dim.extend(shape)


def _fill(port: Any, tensor: Tensor) -> None:
    port.name = tensor.name
    port.data_type = DataType.Value(f"TYPE_{tensor.dtype.upper()}")
    port.dims.extend(tensor.shape or (1,))
    if not tensor.shape:  # one number per row: [batch, 1] on the wire, [batch] in the network
        port.reshape.SetInParent()
