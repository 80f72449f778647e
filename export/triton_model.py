"""Triton Python backend: runs the model.onnx beside it. Triton's stub needs numpy < 2 and imports nothing of ours.

A list of requests becomes one call per shape; a row's result does not depend on its neighbours (static buckets).
Parameters of config.pbtxt: runtime = openvino | onnxruntime; precision = auto | bf16 | fp32 (openvino).
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

BUCKETS = (8, 4, 2, 1)  # rows of a compiled network


class OpenVino:
    """One network compiled per shape and bucket, when first met."""

    def __init__(self, file, precision):
        import openvino

        self.core = openvino.Core()
        self.file = file
        if precision == "auto":
            precision = "bf16" if "BF16" in self.core.get_property("CPU", "OPTIMIZATION_CAPABILITIES") else "fp32"
        self.options = {"INFERENCE_PRECISION_HINT": {"bf16": "bf16", "fp32": "f32"}[precision]}
        self.compiled = {}

    def __call__(self, arrays):
        parts, start = [], 0
        rows = len(next(iter(arrays.values())))
        while start < rows:
            bucket = next(size for size in BUCKETS if size <= rows - start)
            parts.append(self.run({name: array[start : start + bucket] for name, array in arrays.items()}))
            start += bucket
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def run(self, arrays):
        shapes = {name: list(array.shape) for name, array in arrays.items()}
        key = json.dumps(shapes, sort_keys=True)
        if key not in self.compiled:
            model = self.core.read_model(self.file)
            model.reshape(shapes)
            self.compiled[key] = self.core.compile_model(model, "CPU", self.options).create_infer_request()
        outputs = self.compiled[key].infer(arrays)
        return {port.get_any_name(): value.copy() for port, value in outputs.items()}


class OnnxRuntime:
    """The network as it is, any shape."""

    def __init__(self, file, _):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        self.outputs = [output.name for output in self.session.get_outputs()]

    def __call__(self, arrays):
        return dict(zip(self.outputs, self.session.run(self.outputs, arrays)))


class TritonPythonModel:
    """The interface that Triton calls."""

    def initialize(self, args):
        if int(np.__version__.split(".")[0]) >= 2:
            raise pb_utils.TritonModelException(f"numpy {np.__version__}: Triton's stub silently corrupts arrays of numpy 2")
        config = json.loads(args["model_config"])
        parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
        file = Path(args["model_repository"], args["model_version"], "model.onnx")
        self.inputs = [entry["name"] for entry in config["input"]]
        self.outputs = [entry["name"] for entry in config["output"]]
        runtime = {"openvino": OpenVino, "onnxruntime": OnnxRuntime}[parameters["runtime"]]
        self.network = runtime(str(file), parameters["precision"])

    def execute(self, requests):
        responses = [None] * len(requests)
        groups = {}
        for index, request in enumerate(requests):
            if request.is_cancelled():
                responses[index] = _error("the request was cancelled", pb_utils.TritonError.CANCELLED)
                continue
            arrays = {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self.inputs}
            shapes = tuple(array.shape[1:] for array in arrays.values())
            groups.setdefault(shapes, {})[index] = arrays
        for group in groups.values():
            for index, response in zip(group, self.answer(list(group.values()))):
                responses[index] = response
        return responses

    def answer(self, group):
        """One response for each member of a group of equal shapes, from one call."""
        try:
            outputs = self.network({name: np.concatenate([member[name] for member in group]) for name in self.inputs})
        except Exception as error:  # one group's failure is not the others'
            return [_error(str(error), pb_utils.TritonError.INTERNAL)] * len(group)
        ends = np.cumsum([len(member[self.inputs[0]]) for member in group])[:-1]
        rows = zip(*(np.split(outputs[name], ends) for name in self.outputs))
        return [pb_utils.InferenceResponse([pb_utils.Tensor(*pair) for pair in zip(self.outputs, row)]) for row in rows]


def _error(message, code):
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))
