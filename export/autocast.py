"""Mixed precision by ModelOpt's AutoCast: what half precision would overflow or lose stays in fp32."""

import logging
import tempfile
from pathlib import Path

import numpy as np
import onnx_ir as ir

from export.networks import Network, Precision

SIDE = 8  # of the calibration latent, in what the network takes


def autocast(network: Network, graph: ir.Model, precision: Precision) -> ir.Model:
    """An fp32 graph with every node in ``precision`` whose values fit; the ports stay fp32."""
    from modelopt.onnx.autocast import convert_to_mixed_precision
    from modelopt.onnx.logging_config import logger

    logger.setLevel(logging.ERROR)
    inputs = network.example(2, SIDE, SIDE)
    with tempfile.TemporaryDirectory() as folder:
        file, calibration = Path(folder, "model.onnx"), Path(folder, "inputs.npz")
        ir.save(graph, file, external_data="model.onnx.data")
        feeds = {port.name: tensor.numpy() for port, tensor in zip(network.inputs, inputs, strict=True)}
        np.savez(calibration, allow_pickle=False, **feeds)
        converted = convert_to_mixed_precision(
            str(file), low_precision_type=precision, keep_io_types=True, calibration_data=str(calibration)
        )
    network.precision = precision
    return ir.serde.deserialize_model(converted)
