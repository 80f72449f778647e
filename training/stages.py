"""Stages that continue from trained weights: counted in steps, resumable, one process."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from diffusers import UNet2DConditionModel
from torch import Tensor
from tqdm import tqdm

from training import checkpoint, unet


def settings(config: Any, table: str) -> Any:
    """The configuration with the UNet's training settings replaced by those of another table."""
    merged = SimpleNamespace(**vars(config.unet) | vars(getattr(config, table)))
    return SimpleNamespace(**vars(config) | {"unet": merged})


def path(config: Any, name: str) -> Path:
    return Path(config.paths.runs / f"{name}.pt")


def network(config: Any, weights: list[Tensor]) -> UNet2DConditionModel:
    """A network of these weights that is not trained."""
    net = unet.build(config).to(config.device)
    checkpoint.copy(net.parameters(), weights)
    return net.eval().requires_grad_(False)


def load(config: Any, name: str) -> UNet2DConditionModel:
    """The averaged network of a checkpoint."""
    if not path(config, name).exists():
        raise ValueError(f"{path(config, name)} does not exist: train {name} first")
    return network(config, checkpoint.load(path(config, name))["ema"])


def resume(file: Path, trainer: unet.Trainer) -> dict[str, Any]:
    """Put the trainer where the checkpoint left it; returns what else the checkpoint holds, {} if there is none."""
    if not file.exists():
        return {}
    state = checkpoint.load(file)
    trainer.restore(state)
    return {key: value for key, value in state.items() if key not in trainer.state()}


def advance(config: Any, name: str, trainer: unet.Trainer, source: unet.Source, until: int, total: int) -> None:
    """Train up to step ``until`` of ``total``, logging the mean loss of every 20 steps to <name>.jsonl."""
    losses: list[float] = []
    bar = tqdm(range(trainer.step_number, until), desc=name, initial=trainer.step_number, total=total, mininterval=5)
    for step in bar:
        losses.append(trainer.step(source, step / total))
        if trainer.step_number % 20 == 0 or trainer.step_number == until:
            row = {"step": trainer.step_number, "samples": trainer.samples, "loss": round(float(np.mean(losses)), 5)}
            bar.set_postfix(loss=row["loss"])
            with (config.paths.runs / f"{name}.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")
            losses.clear()
