"""Triton Python backend: runs the network beside it. Triton's stub needs numpy < 2; nothing of ours is imported.

A list of requests becomes one call per shape, and a row's result does not depend on the rows beside it.
Parameters in config.pbtxt: runtime (openvino, onnxruntime, torch) and what that takes. What precision auto came to
stands in the configuration that the server publishes: as the type of an output named precision, which carries nothing.
Rows per execution: the histogram darkroom_execution_rows among the server's metrics.
"""

import json
import os
from collections import deque
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]

BUCKETS = (8, 4, 2, 1)  # rows that a network is compiled for
LANES = 2  # parts of a call that run side by side: faster than one part on all cores (service/engines/buckets.py)
PRECISION = "precision"

Arrays = dict[str, np.ndarray]


class OpenVino:
    """The network compiled for each shape and bucket when it is first met."""

    file, takes = "model.onnx", ("precision",)

    def __init__(self, file: Path, precision: str) -> None:
        import openvino

        self.core = openvino.Core()
        self.model = self.core.read_model(file)
        self.lanes = min(LANES, len(os.sched_getaffinity(0)))
        self.options = {
            "INFERENCE_PRECISION_HINT": {"bf16": "bf16", "fp32": "f32"}[self.settle(precision)],
            "ENABLE_CPU_PINNING": False,  # pinned threads starve where other work shares the cores
        }
        self.compiled: dict[str, Any] = {}
        self.idle: dict[str, list[Any]] = {}  # infer requests hold the buffers of one call

    @staticmethod
    def settle(precision: str) -> str:
        """What it computes in when it is told ``precision``."""
        import openvino

        capable = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        offered = ("bf16", "fp32") if capable else ("fp32",)
        if precision not in ("auto", *offered):
            raise ValueError(f"this CPU has no {precision} arithmetic: precision may be auto, {', '.join(offered)}")
        return offered[0] if precision == "auto" else precision

    def __call__(self, arrays: Arrays) -> Arrays:
        rows = len(next(iter(arrays.values())))
        lanes = min(self.lanes, rows)
        running: deque[tuple[int, str, Any]] = deque()
        outputs: Arrays = {}
        for start, size in _parts(rows, lanes):
            if len(running) == lanes:
                self._finish(outputs, rows, *running.popleft())
            part = {name: array[start : start + size] for name, array in arrays.items()}
            running.append((start, *self._begin(part, lanes)))
        for started in running:
            self._finish(outputs, rows, *started)
        return outputs

    def _begin(self, arrays: Arrays, streams: int) -> tuple[str, Any]:
        """Start a call of one bucket on its share of the cores."""
        shapes = {name: list(array.shape) for name, array in arrays.items()}
        key = f"{shapes} {streams}"
        if key not in self.compiled:
            model = self.model.clone()
            model.reshape(shapes)
            self.compiled[key] = self.core.compile_model(model, "CPU", {**self.options, "NUM_STREAMS": streams})
            self.idle[key] = []
        request = self.idle[key].pop() if self.idle[key] else self.compiled[key].create_infer_request()
        request.start_async(arrays, share_inputs=True)
        return key, request

    def _finish(self, outputs: Arrays, rows: int, start: int, key: str, request: Any) -> None:
        """Put the rows of a call where they belong."""
        request.wait()
        for port in request.model_outputs:
            found = request.get_tensor(port).data
            whole = outputs.setdefault(port.any_name, np.empty((rows, *found.shape[1:]), found.dtype))
            whole[start : start + len(found)] = found
        self.idle[key].append(request)


def _parts(rows: int, lanes: int) -> list[tuple[int, int]]:
    """Start and size of every bucket, so that the lanes have equal work to the end: 6 rows are 2, 2, 1, 1."""
    shares: list[list[tuple[int, int]]] = []
    for lane in range(lanes):
        start, stop, share = rows * lane // lanes, rows * (lane + 1) // lanes, []
        while start < stop:
            size = next(bucket for bucket in BUCKETS if bucket <= stop - start)
            share.append((start, size))
            start += size
        shares.append(share)
    return [part for turn in zip_longest(*shares) for part in turn if part]


class OnnxRuntime:
    """The network as it is, for any shape."""

    file, takes = "model.onnx", ("precision",)

    def __init__(self, file: Path, precision: str) -> None:
        import onnxruntime

        self.settle(precision)
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        self.outputs = [output.name for output in self.session.get_outputs()]

    @staticmethod
    def settle(precision: str) -> str:
        """What it computes in when it is told ``precision``."""
        if precision not in ("auto", "fp32"):
            raise ValueError("ONNX Runtime computes in fp32 on CPUs: precision may be auto, fp32")
        return "fp32"

    def __call__(self, arrays: Arrays) -> Arrays:
        return dict(zip(self.outputs, self.session.run(self.outputs, arrays), strict=True))


def runtime(name: str) -> Any:
    """The class that runs the network; torch's lies beside this file where that was exported."""
    if name == "torch":
        from torch_runtime import Torch  # type: ignore[import-not-found]

        return Torch
    return {"openvino": OpenVino, "onnxruntime": OnnxRuntime}[name]


class TritonPythonModel:
    """What Triton calls."""

    @staticmethod
    def auto_complete_config(config: Any) -> Any:
        """What auto comes to on this machine, for the configuration that the server publishes."""
        told = _parameters(config.as_dict())
        if told[PRECISION] == "auto":
            precision = runtime(told["runtime"]).settle("auto")
            config.add_output({"name": PRECISION, "data_type": f"TYPE_{precision.upper()}", "dims": [1]})
        return config

    def initialize(self, args: dict[str, str]) -> None:
        if int(np.__version__.split(".")[0]) >= 2:
            raise pb_utils.TritonModelException(f"numpy {np.__version__}: Triton's stub corrupts arrays of numpy 2")
        config = json.loads(args["model_config"])
        told = _parameters(config)
        told["device"] = f"cuda:{args['model_instance_device_id']}" if args["model_instance_kind"] == "GPU" else ""
        cls = runtime(told["runtime"])
        file = Path(args["model_repository"], args["model_version"], cls.file)
        self.network: Any = cls(file, **{name: told[name] for name in cls.takes})
        self.inputs = [entry["name"] for entry in config["input"]]
        self.outputs = [entry["name"] for entry in config["output"] if entry["name"] != PRECISION]
        histogram = pb_utils.MetricFamily.HISTOGRAM
        self.family = pb_utils.MetricFamily("darkroom_execution_rows", "Rows of one execution of a network", histogram)
        self.rows = self.family.Metric(labels={"model": args["model_name"]}, buckets=[1, 2, 4, 6, 8, 12, 16])

    def finalize(self) -> None:
        """Metrics that outlive the stub's queue to the server end it by a segmentation fault."""
        del self.rows, self.family

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
        sizes = [len(member[self.inputs[0]]) for member in group]
        self.rows.observe(sum(sizes))
        try:
            outputs = self.network(_joined(group))
        except Exception as error:  # told to every member; the other groups go on
            return [_error(str(error), pb_utils.TritonError.INTERNAL) for _ in group]
        parts = [np.split(outputs[name], np.cumsum(sizes)[:-1]) for name in self.outputs]  # [output][member]
        return [self._response([part[member] for part in parts]) for member in range(len(group))]

    def _response(self, arrays: list[np.ndarray]) -> Any:
        return pb_utils.InferenceResponse([pb_utils.Tensor(*pair) for pair in zip(self.outputs, arrays, strict=True)])


def _joined(group: list[Arrays]) -> Arrays:
    return {name: np.concatenate([member[name] for member in group]) for name in group[0]} if group[1:] else group[0]


def _parameters(config: dict[str, Any]) -> dict[str, str]:
    return {key: value["string_value"] for key, value in config["parameters"].items()}


def _error(message: str, code: Any) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))
