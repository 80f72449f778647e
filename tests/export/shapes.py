"""ONNX's own shape inference, at the corners of a profile."""

from pathlib import Path

import onnx

from export.plans import Profile


def infer_shapes(file: Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, list[int]]:
    """Strict ONNX shape inference with the inputs fixed: the shape of every output."""
    model = onnx.load(file)
    for value in model.graph.input:
        for dim, size in zip(value.type.tensor_type.shape.dim, shapes[value.name], strict=True):
            dim.dim_value = size
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    return {v.name: [dim.dim_value for dim in v.type.tensor_type.shape.dim] for v in inferred.graph.output}


def corners(profile: Profile) -> list[dict[str, tuple[int, ...]]]:
    return [{name: bounds[i] for name, bounds in profile.items()} for i in range(3)]
