"""The machine's ceiling: the best GFLOP/s that one large matrix product reaches on the same runtime."""

import time

import numpy as np
import openvino as ov
from openvino import opset13 as ops

SIDE = 2048


def gemm_peak(precision: str, repeats: int = 5) -> float:
    """Measured GFLOP/s of a SIDE^3 product at "bf16" or "f32" on all cores (best of ``repeats``)."""
    rng = np.random.default_rng(0)
    left = ops.parameter([SIDE, SIDE], np.float32)
    weight = ops.constant(rng.standard_normal((SIDE, SIDE)).astype(np.float32))
    model = ov.Model([ops.matmul(left, weight, False, True)], [left])
    compiled = ov.Core().compile_model(
        model, "CPU", {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
    )
    x = rng.standard_normal((SIDE, SIDE)).astype(np.float32)
    compiled(x)
    best = min(_timed(compiled, x) for _ in range(repeats))
    return float(2 * SIDE**3 / best / 1e9)


def _timed(compiled: ov.CompiledModel, x: np.ndarray) -> float:
    start = time.perf_counter()
    compiled(x)
    return time.perf_counter() - start
