"""A network as a graph: torch's own, or ONNX whose initializers are the module's parameters in name and layout."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import onnx_ir as ir
import onnxscript.optimizer
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from torch.export import Dim

from export.networks import Network, Port
from export.weights import CONSTANT
from service.errors import InvalidRequest

OPSET = 20
BATCH = Dim("batch", min=1, max=32)  # diffusers branches at 64 rows; the graph itself has no limit
PREFIX = "module."  # what export.networks.Network puts before the parameter names


def program(network: Network) -> torch.export.ExportedProgram:
    """The network as torch's exported program with dynamic batch and size."""
    with _quiet(), torch.no_grad():
        example, shapes = network.example(batch=2, height=2, width=3), _dynamic_shapes(network)
        exported = torch.export.export(network.eval(), example, dynamic_shapes=shapes, strict=False)
    _drop_void_squeezes(exported.graph_module)
    return exported


def trace(network: Network, weights: torch.dtype) -> ir.Model:
    """The network as an optimised ONNX graph; parameters stored as ``weights``."""
    stored = {name: _round(tensor, weights) for name, tensor in network.module.state_dict().items()}
    require_finite(stored)
    exported = program(network)
    with _quiet(), torch.no_grad():
        traced = torch.onnx.export(
            exported,
            input_names=[port.name for port in network.inputs],
            output_names=[port.name for port in network.outputs],
            opset_version=OPSET,
            dynamo=True,
            optimize=False,
        )
    assert traced is not None
    model: ir.Model = traced.model
    # While the parameters are graph inputs, the optimiser can neither fold, transpose, merge nor rename them.
    parameters = _free_parameters(model.graph, stored)
    onnxscript.optimizer.optimize(model)
    _bind_parameters(model.graph, parameters)
    ClearMetadataAndDocStringPass()(model)
    model.graph.name = network.role
    _name_axes(model.graph.inputs, network.inputs)
    _name_axes(model.graph.outputs, network.outputs)
    return model


def require_finite(parameters: Mapping[str, torch.Tensor]) -> None:
    """Raise InvalidRequest naming the parameter that its precision cannot hold."""
    for name, tensor in parameters.items():
        if not torch.isfinite(tensor).all():
            dtype = str(tensor.dtype).removeprefix("torch.")
            raise InvalidRequest(f"parameter {name.removeprefix(PREFIX)} is not finite in {dtype}", field=name)


def _dynamic_shapes(network: Network) -> tuple[dict[int, Any], ...]:
    axes: dict[str, Any] = {name: Dim(name, min=1, max=network.limit) for name in ("height", "width")}
    if network.multiple > 1:
        axes = {name: network.multiple * dim for name, dim in axes.items()}
    return tuple(
        {0: BATCH} | {i: axes[axis] for i, axis in enumerate(port.axes, 1) if isinstance(axis, str)}
        for port in network.inputs
    )


def _drop_void_squeezes(module: torch.fx.GraphModule) -> None:
    """torch's squeeze leaves a dimension alone that is not 1 (PixArt's tokens); ONNX's fails on it."""
    for node in module.graph.find_nodes(op="call_function", target=torch.ops.aten.squeeze.dim):
        source, dim = node.args
        size = source.meta["val"].shape[dim]
        if isinstance(size, torch.SymInt) or size != 1:
            node.replace_all_uses_with(source)
            module.graph.erase_node(node)
    module.recompile()


def _free_parameters(graph: ir.Graph, stored: Mapping[str, torch.Tensor]) -> dict[ir.Value, ir.TensorProtocol]:
    """Turn every parameter from an initializer into a graph input of the stored dtype, followed by a Cast."""
    parameters = {}
    for name, value in list(graph.initializers.items()):
        original = name.removeprefix(PREFIX)
        if original not in stored:
            continue  # a constant, or a buffer that is no part of the checkpoint
        tensor = ir.tensor(stored[original].contiguous(), name=original)
        parameter = ir.val(original, tensor.dtype, stored[original].shape)
        cast = ir.node("Cast", [parameter], attributes={"to": value.dtype})
        value.replace_all_uses_with(cast.outputs[0])
        graph.insert_before(graph[0], cast)
        del graph.initializers[name]
        graph.inputs.append(parameter)
        parameters[parameter] = tensor
    return parameters


def _bind_parameters(graph: ir.Graph, parameters: Mapping[ir.Value, ir.TensorProtocol]) -> None:
    """Turn the graph inputs of ``_free_parameters`` back into initializers; those that nothing reads are dropped."""
    for index, constant in enumerate(list(graph.initializers.values())):
        constant.name = f"{CONSTANT}{index}"
    for parameter, tensor in parameters.items():
        graph.inputs.remove(parameter)
        if parameter.uses():
            parameter.const_value = tensor
            graph.register_initializer(parameter)


def _round(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return tensor.detach().to(dtype) if tensor.is_floating_point() else tensor


def _name_axes(values: Iterable[ir.Value], ports: Iterable[Port]) -> None:
    for value, port in zip(values, ports, strict=True):
        value.shape = ir.Shape(["batch", *port.axes])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's remarks about torch's internals; its errors still raise."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(action="ignore"), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
