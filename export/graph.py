"""A network as an ONNX graph whose initializers are the torch module's own parameters: same names, same layout."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import onnx_ir as ir
import onnxscript.optimizer
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from torch.export import Dim

from export.networks import Network, Port
from service.errors import InvalidRequest

OPSET = 20
PREFIX = "module."  # what export.networks.Network puts before the parameter names


def trace(network: Network, weights: torch.dtype = torch.float16) -> ir.Model:
    """The network as an optimised graph with dynamic batch and size; parameters stored as ``weights``."""
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            network,
            network.example(batch=2, height=2, width=3),
            dynamic_shapes=_dynamic_shapes(network),
            input_names=[port.name for port in network.inputs],
            output_names=[port.name for port in network.outputs],
            opset_version=OPSET,
            dynamo=True,
            optimize=False,
        )
    assert program is not None
    model = program.model
    # While the parameters are graph inputs the optimiser can neither fold, transpose, merge nor rename them.
    parameters = _free_parameters(model.graph, network.module.state_dict(), weights)
    onnxscript.optimizer.optimize(model)
    _bind_parameters(model.graph, parameters)
    ClearMetadataAndDocStringPass()(model)
    _name_axes(model.graph.inputs, network.inputs)
    _name_axes(model.graph.outputs, network.outputs)
    return model
