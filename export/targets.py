"""What can run an exported network behind Triton, and how."""

from collections.abc import Mapping
from dataclasses import dataclass, field

ONNX, PROGRAM, PLAN = "model.onnx", "model.pt2", "model.plan"
READY = (1, 2, 4, 8, 16)  # rows that a GPU's warm-up runs and its CUDA graphs hold


@dataclass(frozen=True)
class Target:
    """A backend of Triton; the Python backend runs the generic model.py with one of its runtimes."""

    backend: str
    runtime: str = ""
    file: str = ONNX  # what is exported
    kind: str = "KIND_CPU"  # of the instance: KIND_GPU, or KIND_AUTO for a GPU where there is one
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # of the runtime; the first is the default

    @property
    def gpu(self) -> bool:
        """Whether it is made for one."""
        return self.kind != "KIND_CPU"

    def max_rows(self, role: str) -> int:
        """Rows of one call at most; one picture's decoder fills every core, and the memory of a GPU."""
        return 1 if role == "vae_decoder" else max(READY)

    def ready_rows(self, role: str) -> list[int]:
        """Rows of the calls that are warmed up."""
        return [rows for rows in READY if rows <= self.max_rows(role)] if self.gpu else []


TARGETS: Mapping[str, Target] = {
    "python-openvino": Target("python", "openvino"),
    "python-onnxruntime": Target("python", "onnxruntime"),
    "python-torch": Target(
        "python",
        "torch",
        file=PROGRAM,
        kind="KIND_AUTO",
        options={"attention": ("sdpa", "xformers"), "compile": ("reduce-overhead", "max-autotune", "off")},
    ),
    "onnxruntime": Target("onnxruntime", kind="KIND_AUTO"),
    "tensorrt": Target("tensorrt", kind="KIND_GPU"),
}
DEFAULT = "python-openvino"
