"""Two libraries that run ONNX files on this CPU, behind one seam. OpenVINO where it has a wheel, else ONNX Runtime."""

import hashlib
import importlib.util
import logging
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from service.engines.contract import Array
from service.engines.tensors import Inputs
from service.errors import Unavailable
from service.settings import Settings

log = logging.getLogger(__name__)

Finish = Callable[[], list[Array]]  # waits for the outputs of a call
Executable = Callable[[Inputs], Finish]  # begins a call
Shapes = Mapping[str, tuple[int, ...]]  # input name -> shape with its rows


class Runtime(Protocol):
    """Compiles a network for fixed input shapes; ``streams`` calls at a time share the ``threads`` evenly."""

    precision: str
    threads: int

    def compile(self, file: Path, sha256: str, shapes: Shapes, streams: int) -> Executable: ...


def open_runtime(settings: Settings) -> Runtime:
    """The best runtime that is installed, with the settings' precision and threads."""
    threads = settings.threads or available_cores()
    if importlib.util.find_spec("openvino"):
        return OpenVino(settings.precision, threads, settings.cache_dir)
    if importlib.util.find_spec("onnxruntime"):
        return OnnxRuntime(settings.precision, threads)
    raise Unavailable("nothing here runs networks in process: install darkroom[embedded] or set DARKROOM_ENGINE=triton")


def available_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class OpenVino:
    """OpenVINO's CPU plugin; compiled networks are kept in ``cache`` under everything that they depend on."""

    def __init__(self, precision: str, threads: int, cache: Path) -> None:
        import openvino

        self.threads = threads
        with ThreadPoolExecutor(1) as loader:
            self._core, capabilities = loader.submit(_load_plugin).result()
        openvino.Tensor(np.zeros(1))  # the binding loads NumPy at its first array: two threads at once would deadlock
        if precision == "bf16" and "BF16" not in capabilities:
            raise Unavailable("this CPU has no bf16 arithmetic; set DARKROOM_PRECISION to auto or fp32")
        self.precision = "bf16" if precision != "fp32" and "BF16" in capabilities else "fp32"
        self._cache = cache
        self._identity = (
            openvino.get_version(),
            self._core.get_property("CPU", "FULL_DEVICE_NAME"),
            sorted(capabilities),
        )

    def compile(self, file: Path, sha256: str, shapes: Shapes, streams: int) -> Executable:
        options = {
            "INFERENCE_PRECISION_HINT": "bf16" if self.precision == "bf16" else "f32",
            "INFERENCE_NUM_THREADS": self.threads,
            "NUM_STREAMS": streams,
            "ENABLE_CPU_PINNING": False,  # pinned threads starve where other work shares the cores
        }
        key = hashlib.sha256(repr((sha256, sorted(shapes.items()), options, self._identity)).encode()).hexdigest()
        blob = self._cache / f"{key[:32]}.openvino"
        compiled = self._load(blob, options)
        if compiled is None:
            model = self._core.read_model(file)
            model.reshape({name: list(shape) for name, shape in shapes.items()})
            compiled = self._core.compile_model(model, "CPU", options)
            _write(blob, compiled.export_model().getvalue())
        return _openvino_executable(compiled)

    def _load(self, blob: Path, options: Mapping[str, object]) -> Any:
        """The compiled network of an earlier process, or None; a damaged file is as good as none."""
        try:
            content = blob.read_bytes()
        except OSError:
            return None
        if hashlib.sha256(content[32:]).digest() != content[:32]:
            log.warning("%s is damaged and is made anew", blob)
            return None
        return self._core.import_model(content[32:], "CPU", options)


def _load_plugin() -> tuple[Any, list[str]]:
    """OpenVINO with its CPU plugin, and what that is capable of.

    In a thread of its own: the plugin replaces its thread's signal stack, and of several the wrong one comes back, so
    that the next signal to the main thread would end the process.
    """
    import openvino

    core = openvino.Core()
    return core, core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _write(blob: Path, content: bytes) -> None:
    """Whole or not at all, with its checksum; a cache that cannot be written costs time, not pictures."""
    try:
        blob.parent.mkdir(parents=True, exist_ok=True)
        partial = blob.with_suffix(f".{os.getpid()}")
        partial.write_bytes(hashlib.sha256(content).digest() + content)
        partial.replace(blob)
    except OSError as error:
        log.warning("compiled networks cannot be kept: %s", error)


def _openvino_executable(compiled: Any) -> Executable:
    """Infer requests hold the buffers of one call; there are as many as calls ever ran at once."""
    idle: list[Any] = []

    def begin(inputs: Inputs) -> Finish:
        try:
            request = idle.pop()
        except IndexError:
            request = compiled.create_infer_request()
        request.start_async(inputs, share_inputs=True)

        def finish() -> list[Array]:
            request.wait()
            outputs = [tensor.data.copy() for tensor in request.output_tensors]
            idle.append(request)
            return outputs

        return finish

    return begin


class OnnxRuntime:
    """ONNX Runtime's CPU provider, in fp32; one session per file and thread count serves every shape."""

    precision = "fp32"

    def __init__(self, precision: str, threads: int) -> None:
        if precision == "bf16":
            raise Unavailable("ONNX Runtime computes in fp32 on CPUs; set DARKROOM_PRECISION to auto or fp32")
        self.threads = threads
        self._sessions: dict[tuple[str, int], Any] = {}
        self._callers = ThreadPoolExecutor(threads, "onnxruntime")

    def compile(self, file: Path, sha256: str, shapes: Shapes, streams: int) -> Executable:  # noqa: ARG002
        import onnxruntime

        threads = max(1, self.threads // streams)
        if (sha256, threads) not in self._sessions:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = threads
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
            self._sessions[sha256, threads] = onnxruntime.InferenceSession(
                file, options, providers=["CPUExecutionProvider"]
            )
        session = self._sessions[sha256, threads]
        return lambda inputs: self._callers.submit(session.run, None, inputs).result
