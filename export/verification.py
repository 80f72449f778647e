"""Compares the torch modules of a checkpoint with the exported networks on the same random inputs."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from export.families import Model
from export.networks import Network
from service.engines.contract import load_descriptions
from service.errors import UnknownModel

CASES = ((1, 2, 2), (2, 2, 3), (3, 5, 2))  # rows, height, width in multiples of what the network takes
TOLERANCE = 1e-4  # of the largest value of the output


@dataclass(frozen=True)
class Drift:
    """The largest difference of one output over one case."""

    network: str
    output: str
    shape: tuple[int, ...]
    absolute: float
    relative: float

    @property
    def ok(self) -> bool:
        """Within the rounding of fp32 arithmetic; NaN is not."""
        return self.relative <= TOLERANCE

    def __str__(self) -> str:
        verdict = "ok" if self.ok else "DRIFT"
        return f"{self.network} {self.output} {list(self.shape)}  abs {self.absolute:.1e}  rel {self.relative:.1e}  {verdict}"


def compare(model: Model, repository: Path, name: str) -> Iterator[Drift]:
    """Drift of every output of every network over several batch sizes and sizes, one timestep per row."""
    descriptions = load_descriptions(repository)
    if name not in descriptions:
        known = ", ".join(descriptions) or "none"
        raise UnknownModel(f"{repository} holds no model {name}; its models: {known}", field="name")
    description, _ = descriptions[name]
    for network in model.networks:
        entry = description.networks[network.role]
        yield from _compare(network, repository / entry.entry / "1" / entry.file)


def _compare(network: Network, file: Path) -> Iterator[Drift]:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for seed, case in enumerate(CASES):
        inputs = network.example(*case, seed=seed)
        with torch.no_grad():
            expected = network(*inputs)
        feeds = {port.name: tensor.numpy() for port, tensor in zip(network.inputs, inputs, strict=True)}
        names = [port.name for port in network.outputs]
        found = session.run(names, feeds)
        for output, a, b in zip(names, _tuple(expected), found, strict=True):
            yield _drift(network.role, output, a.numpy(), b)


def _tuple(outputs: torch.Tensor | tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def _drift(network: str, output: str, expected: np.ndarray, found: np.ndarray) -> Drift:
    absolute = float(np.abs(expected - found).max())
    return Drift(network, output, found.shape, absolute, absolute / float(np.abs(expected).max()))
