"""The runtimes of the Triton backend; tests/e2e runs the whole file in the real server."""

import importlib
import sys
from types import ModuleType

import numpy as np
import onnxruntime
import openvino
import pytest


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module as Triton imports it; Triton's own half of it exists only inside the server."""
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", ModuleType("triton_python_backend_utils"))
    return importlib.import_module("export.triton_model")


def rows(count: int, side: int = 4) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "sample": rng.standard_normal((count, 4, side, 6)).astype(np.float32),
        "timestep": np.linspace(0, 999, count).astype(np.float32),
        "encoder_hidden_states": rng.standard_normal((count, 77, 32)).astype(np.float32),
    }


@pytest.mark.parametrize("runtime", ["OpenVino", "OnnxRuntime"])
@pytest.mark.parametrize("side", [4, 8])
def test_runtimes_equal_onnx_runtime(exported, backend, runtime, side) -> None:
    network = getattr(backend, runtime)(exported.onnx("unet"), "fp32")
    arrays = rows(3, side)
    expected = onnxruntime.InferenceSession(exported.onnx("unet")).run(["out_sample"], arrays)[0]
    found = network(arrays)
    assert list(found) == ["out_sample"]
    np.testing.assert_allclose(found["out_sample"], expected, atol=2e-5)


@pytest.mark.parametrize(
    ("runtime", "precision"), [("OpenVino", "auto"), ("OpenVino", "fp32"), ("OnnxRuntime", "auto")]
)
def test_a_row_has_the_same_bits_in_any_company(exported, backend, runtime, precision) -> None:
    network = getattr(backend, runtime)(exported.onnx("unet"), precision)
    arrays = rows(15)  # 8 + 4 + 2 + 1
    together = network(arrays)["out_sample"]
    for row in range(15):
        alone = network({name: array[row : row + 1] for name, array in arrays.items()})["out_sample"]
        np.testing.assert_array_equal(together[row : row + 1], alone)


def test_what_auto_comes_to_and_what_is_refused(backend: ModuleType) -> None:
    capable = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    assert backend.OpenVino.settle("auto") == ("bf16" if capable else "fp32")
    assert backend.OnnxRuntime.settle("auto") == "fp32"
    for runtime, refused in ((backend.OpenVino, "fp16"), (backend.OnnxRuntime, "bf16")):
        assert runtime.settle("fp32") == "fp32"
        with pytest.raises(ValueError, match="precision may be auto, "):
            runtime.settle(refused)
