"""Triton's protobuf: inputs to a request, an answer to arrays, and what a server's configuration of a model says."""

from collections.abc import Mapping

import numpy as np
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig

from service.engines.contract import Array, Network
from service.engines.shelf import Place
from service.engines.tensors import NUMPY, Inputs


def request(network: Network, inputs: Inputs, places: Mapping[str, Place]) -> pb.ModelInferRequest:
    """Triton's view of the inputs: a number per row travels as [rows, 1], what lies in shared memory as its place."""
    message = pb.ModelInferRequest(model_name=network.entry)
    for tensor in network.inputs:
        found = places[tensor.name] if tensor.name in places else inputs[tensor.name]
        described = message.inputs.add(name=tensor.name, datatype=tensor.dtype.upper())
        described.shape.extend(found.shape if tensor.shape else (*found.shape, 1))
        if isinstance(found, Place):
            described.parameters["shared_memory_region"].string_param = found.region
            described.parameters["shared_memory_offset"].int64_param = found.offset
            described.parameters["shared_memory_byte_size"].int64_param = found.size
        else:
            message.raw_input_contents.append(found.tobytes())
    for tensor in network.outputs:
        message.outputs.add(name=tensor.name)
    return message


def arrays(network: Network, answer: pb.ModelInferResponse) -> list[Array]:
    """The outputs as float32 in the order of the description, whatever the order of the answer."""
    found = {
        output.name: np.frombuffer(content, NUMPY[output.datatype.lower()]).reshape(tuple(output.shape))
        for output, content in zip(answer.outputs, answer.raw_output_contents, strict=True)
    }
    return [found[tensor.name].astype(np.float32) for tensor in network.outputs]


def digest(config: ModelConfig) -> str:
    """Of the network that the model was exported with; "none" if it has none."""
    return config.parameters["digest"].string_value or "none"


def precision(config: ModelConfig) -> str:
    """What the model says that it computes in (export/triton_model.py), else what was exported, as for a plan."""
    said = [DataType.Name(output.data_type) for output in config.output if output.name == "precision"]
    return said[0].removeprefix("TYPE_").lower() if said else str(config.parameters["precision"].string_value)
