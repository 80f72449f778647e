"""Muon (Jordan et al. 2024) for the matrices and convolutions inside a network, AdamW for everything else."""

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn


def matrix(weight: Tensor) -> Tensor:
    """A weight, or its gradient, as outputs x inputs; of a convolution in channels-last layout it is a view."""
    return weight if weight.ndim == 2 else weight.permute(0, 2, 3, 1).flatten(1)


class MuonAdamW:
    """Two optimisers behind the methods of one."""

    def __init__(
        self, net: nn.Module, inside: Iterable[nn.Module], lr: float, betas: Sequence[float], weight_decay: float
    ) -> None:
        """Muon steps the weights of linear layers and convolutions in ``inside``; ValueError if they are no views."""
        layers = chain.from_iterable(part.modules() for part in inside)
        self.weights = [layer.weight for layer in layers if isinstance(layer, nn.Linear | nn.Conv2d)]
        self.matrices = [matrix(weight.detach()) for weight in self.weights]
        if any(a.data_ptr() != b.data_ptr() for a, b in zip(self.weights, self.matrices, strict=True)):
            raise ValueError("convolutions must be in channels-last layout")
        known = {id(weight) for weight in self.weights}
        others = [p for p in net.parameters() if id(p) not in known]
        self.parts: tuple[torch.optim.Optimizer, ...] = (
            torch.optim.Muon(self.matrices, lr, weight_decay, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr, (betas[0], betas[1]), weight_decay=weight_decay, fused=True),
        )
        self.parameters = [*self.weights, *self.matrices, *others]

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [group for part in self.parts for group in part.param_groups]

    def step(self) -> None:
        for weight, view in zip(self.weights, self.matrices, strict=True):
            view.grad = None if weight.grad is None else matrix(weight.grad)
        for part in self.parts:
            part.step()

    def zero_grad(self) -> None:
        for p in self.parameters:
            p.grad = None

    def state_dict(self) -> list[dict[str, Any]]:
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, states: Any) -> None:
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(state)
