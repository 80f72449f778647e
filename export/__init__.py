"""Checkpoints become a Triton model repository: ONNX, configuration, self-description."""
