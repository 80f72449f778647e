"""config.pbtxt of an entry, from the contract's description of its network."""

from typing import Any

from google.protobuf import text_format  # type: ignore[import-untyped]
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig, ModelInstanceGroup

from service.engines.contract import Network, Tensor

MAX_BATCH = 8


def config_pbtxt(network: Network, digest: str) -> str:
    """Python backend, dynamic batching of mixed sizes, an empty queue policy (admission is the gateway's)."""
    config = ModelConfig(name=network.entry, backend="python", max_batch_size=MAX_BATCH)
    for tensor in network.inputs:
        _fill(config.input.add(allow_ragged_batch=-1 in tensor.shape), tensor)
    for tensor in network.outputs:
        _fill(config.output.add(), tensor)
    config.dynamic_batching.SetInParent()
    config.instance_group.add(count=1, kind=ModelInstanceGroup.Kind.Value("KIND_CPU"))
    for key, value in {"digest": digest, "runtime": "openvino", "precision": "auto"}.items():
        config.parameters[key].string_value = value
    return "# Written by python -m export.\n" + text_format.MessageToString(config)


def _fill(port: Any, tensor: Tensor) -> None:
    port.name = tensor.name
    port.data_type = DataType.Value(f"TYPE_{tensor.dtype.upper()}")
    port.dims.extend(tensor.shape or (1,))
    if not tensor.shape:  # one number per row: [batch, 1] on the wire, [batch] in the network
        port.reshape.SetInParent()
