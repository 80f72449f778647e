"""Checkpoints: written beside the old one, then renamed; read on any device, whole or averaged weights alone."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from training.optimizers import MuonAdamW


class Resumable(Protocol):
    """What the trainers have in common; the averages are in the order of the parameters."""

    parameters: list[nn.Parameter]
    ema: list[Tensor]
    step_number: int
    since: int  # step at which the optimiser started anew

    @property
    def net(self) -> nn.Module: ...

    @property
    def optimizer(self) -> torch.optim.Optimizer | MuonAdamW: ...


def save(path: Path, state: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.rename(path)


def load(path: Path) -> Any:
    return torch.load(path, map_location="cpu", mmap=True)


def state(trainer: Resumable) -> dict[str, Any]:
    """Everything from which training goes on as if it had not stopped."""
    return {
        "net": trainer.net.state_dict(), "ema": trainer.ema, "optimizer": trainer.optimizer.state_dict(),
        "step": trainer.step_number, "since": trainer.since,
    }  # fmt: skip


def restore(trainer: Resumable, state: dict[str, Any]) -> None:
    """Go on from a state; one without an optimiser starts from the averaged weights and warms a new one up."""
    trainer.step_number = state["step"]
    trainer.ema = [p.detach().clone() for p in trainer.parameters]
    copy(trainer.ema, state["ema"])
    if "optimizer" not in state:
        trainer.since = state["step"]
        copy(trainer.parameters, state["ema"])
        return
    trainer.since = state["since"]
    trainer.net.load_state_dict(state["net"])
    trainer.optimizer.load_state_dict(state["optimizer"])


@torch.no_grad()
def copy(targets: Iterable[Tensor], sources: Iterable[Tensor]) -> None:
    """Copy values, whatever the device, type and layout; ValueError if the shapes are another network's."""
    for number, (target, source) in enumerate(zip(targets, sources, strict=True)):
        if target.shape != source.shape:
            raise ValueError(f"parameter {number} is {list(target.shape)} here and {list(source.shape)} there")
        target.copy_(source)


def seconds(state: dict[str, Any], device: str) -> float:
    """How long the schedule has run; it starts anew on another device and with a new optimiser."""
    return float(state["seconds"]) if "optimizer" in state and state["device"] == device else 0.0


def weights(state: dict[str, Any]) -> dict[str, Any]:
    """Averaged and best weights in half precision, and the counters: an eighth of a state, enough to go on from."""
    keep = {key: state[key] for key in ("step", "samples") if key in state}
    return keep | {key: [p.half() for p in state[key]] for key in ("ema", "best") if key in state}
