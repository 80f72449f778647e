"""Muon and AdamW behind one face: what each parameter is stepped by, and that moments survive."""

from typing import Any

import pytest
import torch
from torch import nn

from training.optimizers import MuonAdamW


class Net(nn.Module):
    """A convolution and a linear layer inside, a linear layer outside."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inside = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Flatten(), nn.Linear(20, 4))
        self.outside = nn.Linear(4, 2)
        self.to(memory_format=torch.channels_last)

    def forward(self, x: torch.Tensor) -> Any:
        return self.outside(self.inside(x))


def optimizer(net: Net) -> MuonAdamW:
    return MuonAdamW(net, (net.inside,), 1e-2, (0.9, 0.99), 0.1)


def steps(net: Net, one: Any, count: int, seed: int = 1) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        net(torch.randn(7, 3, 4, 4, generator=generator)).square().mean().backward()
        one.step()
        one.zero_grad()


def test_each_parameter_is_stepped_by_torchs_own() -> None:
    net, twin = Net(), Net()
    steps(net, optimizer(net), 1)
    twin(torch.randn(7, 3, 4, 4, generator=torch.Generator().manual_seed(1))).square().mean().backward()
    adamw = torch.optim.AdamW(twin.parameters(), 1e-2, (0.9, 0.99), weight_decay=0.1)
    before = [twin.inside[i].weight.detach().clone() for i in (0, 2)]
    adamw.step()
    for layer, old in zip((twin.inside[0], twin.inside[2]), before, strict=True):
        rows = (lambda w: w.permute(0, 2, 3, 1).flatten(1)) if old.ndim == 4 else (lambda w: w)
        flat = nn.Parameter(rows(old).clone())
        flat.grad = rows(layer.weight.grad).clone()
        torch.optim.Muon([flat], 1e-2, 0.1, adjust_lr_fn="match_rms_adamw").step()
        rows(layer.weight.data).copy_(flat.data)
    for (name, ours), theirs in zip(net.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, msg=name, rtol=1e-4, atol=1e-6)


def test_moments_survive() -> None:
    straight, net = Net(), Net()
    one, first, second = optimizer(straight), optimizer(net), optimizer(net)
    steps(straight, one, 2)
    steps(straight, one, 2)
    steps(net, first, 2)
    second.load_state_dict(first.state_dict())
    steps(net, second, 2)
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), net.parameters(), strict=True))


def test_other_layouts_are_refused() -> None:
    net = Net().to(memory_format=torch.contiguous_format)
    with pytest.raises(ValueError, match="channels-last"):
        optimizer(net)
