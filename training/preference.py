"""The preference judge: which of two pictures is better? Trained on pairs of its own seeds, never used to curate."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from training import judge, pairs
from training.evaluate import Rate
from training.precision import autocast

JUDGES = ("validation", "test")  # one decides when to stop, the other judges what came of it


class Preference(nn.Module):
    """Score s of a picture; a is preferred to b with probability sigmoid(s(a) - s(b)) (Bradley & Terry 1952)."""

    def __init__(self) -> None:
        super().__init__()
        network = judge.Judge()
        self.body = network.body
        self.head = nn.Linear(pairs.width(network), 1)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pictures (n, 3, side, side) in [-1, 1] -> (n,)."""
        return self.head(pairs.pooled(self.body(pixels)))[:, 0]


@dataclass(frozen=True)
class Verdict:
    """How often one set of pictures is preferred to another, prompt by prompt."""

    wins: int
    losses: int
    ties: int  # the same picture twice: counted nowhere

    @property
    def rate(self) -> Rate:
        return Rate(self.wins, self.wins + self.losses)

    def __str__(self) -> str:
        low, high = self.rate.interval()
        share = self.wins / max(self.wins + self.losses, 1)
        return f"{share:.3f} [{low:.3f}, {high:.3f}] of {self.wins + self.losses}, {self.ties} ties"


def verdict(ours: Tensor, theirs: Tensor) -> Verdict:
    """Scores of the same prompts and seeds, (n,) each."""
    return Verdict(*(int(relation(ours, theirs).sum()) for relation in (torch.gt, torch.lt, torch.eq)))


def path(config: Any, name: str) -> Path:
    return Path(config.paths.runs / f"preference-{name}.pt")


def seeds(config: Any, name: str) -> range:
    p = config.preference
    start = p.seed + JUDGES.index(name) * p.pairs
    return range(start, start + p.pairs)


def load(config: Any, name: str) -> Preference:
    net = Preference()
    net.load_state_dict(torch.load(path(config, name), map_location="cpu"))
    return net.eval()


@torch.no_grad()
def score(net: Preference, pictures: NDArray[np.uint8], size: int) -> Tensor:
    """Scores of pictures (n, h, w, 3), (n,), on the CPU."""
    device = next(net.parameters()).device
    parts = [judge.shrink(pictures[i : i + 100], size).to(device) for i in range(0, len(pictures), 100)]
    return torch.cat([net(part).cpu() for part in parts])


def fit(views: Tensor, steps: int, batch: int, rate: float, seed: int) -> Preference:
    """Train on pictures [kinds of view, pairs, better and worse, 3, side, side]."""
    torch.manual_seed(seed)
    rng, device = np.random.default_rng(seed), views.device
    net = Preference().to(device).train()
    optimizer = torch.optim.AdamW(net.parameters(), rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    for _ in tqdm(range(steps), "preference", mininterval=10):
        index, view = (torch.from_numpy(rng.integers(n, size=batch)).to(device) for n in (views.shape[1], len(views)))
        shown = pairs.moved(views[view, index].flatten(0, 1).float(), rng)
        with autocast(device):
            better, worse = net(shown).float().unflatten(0, (-1, 2)).unbind(1)
        loss = nn.functional.softplus(worse[None] - better[:, None]).mean()  # every better one, every worse one
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net.eval()


def train(config: Any, name: str) -> float:
    """Train one of the judges; returns the share of held-out pairs that it orders rightly.

    Half of the pictures go through the autoencoder, better and worse alike: its marks must not decide.
    """
    p = config.preference
    labelled = pairs.kept(config, f"preference-{name}", seeds(config, name))
    flat, rows = labelled.reshape(-1, *labelled.shape[2:]), len(labelled) - p.holdout
    shrunk = torch.cat([judge.shrink(flat[i : i + 100], p.size).half() for i in range(0, len(flat), 100)])
    views = torch.stack([shrunk, judge.reconstructions(config, flat).half()]).unflatten(1, (-1, 2))
    net = fit(views[:, :rows].to(config.device), p.steps, p.batch, p.lr, JUDGES.index(name))
    torch.save(net.state_dict(), path(config, name))
    held = score(net, flat[2 * rows :], p.size).unflatten(0, (-1, 2))
    return float((held[:, 0] > held[:, 1]).float().mean())
