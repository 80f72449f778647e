"""Triton Python backend: runs the model.onnx beside it. Triton's stub needs numpy < 2; nothing of ours is imported.

A list of requests becomes one call per shape, and a row's result does not depend on the rows beside it.
Parameters in config.pbtxt: runtime (openvino, onnxruntime) and precision (auto, bf16, fp32; of openvino).
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]

BUCKETS = (8, 4, 2, 1)  # rows that a network is compiled for

Arrays = dict[str, np.ndarray]


class OpenVino:
    """The network compiled for each shape and bucket when it is first met."""

    def __init__(self, file: Path, precision: str) -> None:
        import openvino

        self.core = openvino.Core()
        self.file = file
        if precision == "auto":
            precision = "bf16" if "BF16" in self.core.get_property("CPU", "OPTIMIZATION_CAPABILITIES") else "fp32"
        self.options = {"INFERENCE_PRECISION_HINT": {"bf16": "bf16", "fp32": "f32"}[precision]}
        self.compiled: dict[str, Any] = {}

    def __call__(self, arrays: Arrays) -> Arrays:
        rows, start, parts = len(next(iter(arrays.values()))), 0, []
        while start < rows:
            end = start + next(bucket for bucket in BUCKETS if bucket <= rows - start)
            parts.append(self._infer({name: array[start:end] for name, array in arrays.items()}))
            start = end
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _infer(self, arrays: Arrays) -> Arrays:
        shapes = {name: list(array.shape) for name, array in arrays.items()}
        key = str(shapes)
        if key not in self.compiled:
            model = self.core.read_model(self.file)
            model.reshape(shapes)
            self.compiled[key] = self.core.compile_model(model, "CPU", self.options).create_infer_request()
        return {port.any_name: output.copy() for port, output in self.compiled[key].infer(arrays).items()}


class OnnxRuntime:
    """The network as it is, for any shape."""

    def __init__(self, file: Path, _: str) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        self.outputs = [output.name for output in self.session.get_outputs()]

    def __call__(self, arrays: Arrays) -> Arrays:
        return dict(zip(self.outputs, self.session.run(self.outputs, arrays), strict=True))


class TritonPythonModel:
    """What Triton calls."""

    def initialize(self, args: dict[str, str]) -> None:
        if int(np.__version__.split(".")[0]) >= 2:
            raise pb_utils.TritonModelException(f"numpy {np.__version__}: Triton's stub corrupts arrays of numpy 2")
        config = json.loads(args["model_config"])
        parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
        file = Path(args["model_repository"], args["model_version"], "model.onnx")
        runtimes = {"openvino": OpenVino, "onnxruntime": OnnxRuntime}
        self.network: Any = runtimes[parameters["runtime"]](file, parameters["precision"])
        self.inputs = [entry["name"] for entry in config["input"]]
        self.outputs = [entry["name"] for entry in config["output"]]

    def execute(self, requests: list[Any]) -> list[Any]:
        responses: list[Any] = [None] * len(requests)
        groups: dict[tuple[tuple[int, ...], ...], dict[int, Arrays]] = {}
        for index, request in enumerate(requests):
            if request.is_cancelled():
                responses[index] = _error("the request was cancelled", pb_utils.TritonError.CANCELLED)
                continue
            arrays = {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self.inputs}
            groups.setdefault(tuple(array.shape[1:] for array in arrays.values()), {})[index] = arrays
        for group in groups.values():
            for index, response in zip(group, self._answer(list(group.values())), strict=True):
                responses[index] = response
        return responses

    def _answer(self, group: list[Arrays]) -> list[Any]:
        """One response per member of a group of equal shapes, from one call."""
        try:
            outputs = self.network({name: np.concatenate([member[name] for member in group]) for name in self.inputs})
        except Exception as error:  # told to every member; the other groups go on
            return [_error(str(error), pb_utils.TritonError.INTERNAL) for _ in group]
        ends = np.cumsum([len(member[self.inputs[0]]) for member in group])[:-1]
        parts = [np.split(outputs[name], ends) for name in self.outputs]  # [output][member]
        return [self._response([part[member] for part in parts]) for member in range(len(group))]

    def _response(self, arrays: list[np.ndarray]) -> Any:
        return pb_utils.InferenceResponse([pb_utils.Tensor(*pair) for pair in zip(self.outputs, arrays, strict=True)])


def _error(message: str, code: Any) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))
