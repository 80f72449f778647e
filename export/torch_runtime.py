"""A runtime for model.py beside this file: torch's exported program on the GPU that Triton names, else on the CPU.

Needs nothing but torch (and xformers where that is asked for attention).
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.export.passes import move_to_device_pass

BUCKETS = (16, 8, 4, 2, 1)  # rows of a call; each has a CUDA graph of its own
ATTENTION = torch.ops.aten.scaled_dot_product_attention.default

Arrays = dict[str, np.ndarray]


class Torch:
    """The network compiled for shapes that vary; its kernels are replayed as CUDA graphs, one per shape."""

    file, takes = "model.pt2", ("device", "attention", "compile")

    def __init__(self, file: Path, device: str, attention: str, compile: str) -> None:
        """``device``: as torch names it, or "" for what is there."""
        extra = {"outputs": ""}
        exported = torch.export.load(file, extra_files=extra)
        self.outputs = json.loads(extra["outputs"])
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        if self.device != "cpu":
            torch.backends.cudnn.benchmark = True  # the shapes are few
            exported = move_to_device_pass(exported, self.device)
        module: Any = exported.module()
        if attention == "xformers":
            use_xformers(module)
        self.module = module if compile == "off" else torch.compile(module, mode=compile, dynamic=True)

    @torch.no_grad()
    def __call__(self, arrays: Arrays) -> Arrays:
        """Inputs in the order of the network, any number of rows."""
        rows, start, parts = len(next(iter(arrays.values()))), 0, []
        while start < rows:
            end = start + next(bucket for bucket in BUCKETS if bucket <= rows - start)
            inputs = [torch.from_numpy(array[start:end]).to(self.device) for array in arrays.values()]
            found = self.module(*inputs)
            tensors = found if isinstance(found, tuple) else (found,)
            parts.append([tensor.cpu().contiguous().numpy() for tensor in tensors])  # before a replay writes over them
            start = end
        return {name: np.concatenate([part[i] for part in parts]) for i, name in enumerate(self.outputs)}


def use_xformers(module: Any) -> None:
    """Exchange every attention without a mask for xformers'."""
    from xformers.ops import memory_efficient_attention

    def attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **__: Any) -> Any:
        """[batch, heads, tokens, channels], as torch has it; xformers has tokens before heads."""
        inputs = (tensor.transpose(1, 2) for tensor in (query, key, value))
        return memory_efficient_attention(*inputs).transpose(1, 2)

    for node in module.graph.find_nodes(op="call_function", target=ATTENTION):
        if not any((*node.args[3:], *node.kwargs.values())):
            node.target = attention
    module.recompile()
