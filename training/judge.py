"""The judge: a small CNN that names scene, time, object kind and colour; trained on renders of its own seeds.

What is measured by it is trained, if on a judge's features, on those of the eyes: judges of renders of their own, which
differ in their first weights and in the order of what they see.
"""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from training import autoencoder, data
from training.precision import autocast
from training.text import Heads, cross_entropy, labels
from training.world import draw

HEADS = ("scene", "time", "kind", "colour")
EYES = ("eye", "eye-2", "eye-3")
JUDGES = ("judge", *EYES)


class Judge(nn.Module):
    """Strided residual CNN with a head per attribute; pictures are (n, 3, 128, 128) in [-1, 1]."""

    def __init__(self, widths: tuple[int, ...] = (16, 32, 64, 128)) -> None:
        super().__init__()
        stem: list[nn.Module] = [nn.Conv2d(3, widths[0], 5, stride=2, padding=2), nn.BatchNorm2d(widths[0]), nn.ReLU()]
        blocks = [Block(a, b) for a, b in pairwise(widths)]
        self.body = nn.Sequential(*stem, *blocks)
        self.heads = Heads(2 * widths[-1])

    def features(self, pixels: Tensor) -> Tensor:
        """What the heads see: mean and maximum of every channel, (n, 2 * channels)."""
        maps = self.body(pixels)
        return torch.cat([maps.mean((2, 3)), maps.amax((2, 3))], 1)

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        return dict(self.heads(self.features(pixels)))


class Block(nn.Module):
    """Residual block that halves the resolution (He et al. 2016)."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(a, b, 3, 2, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU(),
            nn.Conv2d(b, b, 3, 1, 1, bias=False), nn.BatchNorm2d(b),
        )  # fmt: skip
        self.skip = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(a, b, 1))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.relu(self.main(x) + self.skip(x))


def path(config: Any, name: str = "judge") -> Path:
    return Path(config.paths.runs / f"{name}.pt")


def shrink(pictures: NDArray[np.uint8], size: int) -> Tensor:
    """(n, 256, 256, 3) uint8 -> box-filtered (n, 3, size, size) in [-1, 1]."""
    pixels = torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return nn.functional.avg_pool2d(pixels, pixels.shape[-1] // size)


def seeds(config: Any, name: str = "judge") -> range:
    start = config.world.judge_seed + (name in EYES) * config.judge.pictures
    return range(start, start + config.judge.pictures)


def augment(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Mild noise, exposure, blur and shift: the ways in which a generated picture may differ from a render."""
    n = len(pixels)
    gain = 1 + 0.12 * (torch.rand(n, 1, 1, 1, generator=generator) - 0.5)
    blurred = nn.functional.avg_pool2d(nn.functional.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, 1)
    share = torch.rand(n, 1, 1, 1, generator=generator)
    pixels = pixels + share * (blurred - pixels)
    noise = torch.rand(n, 1, 1, 1, generator=generator) * 0.08
    pixels = (pixels + 1) * gain - 1 + noise * torch.randn(pixels.shape, generator=generator)
    dy, dx = (int(v) for v in torch.randint(-4, 5, (2,), generator=generator))
    return torch.roll(nn.functional.pad(pixels, (4, 4, 4, 4), mode="replicate"), (dy, dx), (2, 3))[..., 4:-4, 4:-4]


def pictures(config: Any, name: str) -> NDArray[np.uint8]:
    """The judge's renders, or all eyes', at full size, kept on disk."""
    file = config.paths.runs / f"{EYES[0] if name in EYES else name}-pictures.npy"
    if not file.exists():
        data.save_atomically(file, data.render_seeds(seeds(config, name), config.world.size))
    return np.asarray(np.load(file, mmap_mode="r"))


@torch.no_grad()
def reconstructions(config: Any, originals: NDArray[np.uint8]) -> Tensor:
    """The same pictures through PCA and its linear inverse, with denoiser-like latent noise, shrunk."""
    pca, parts = autoencoder.pca(config), []
    rng = np.random.default_rng(5)
    for i in range(0, len(originals), 250):
        latents = pca.encode(np.asarray(originals[i : i + 250]))
        strength = 0.12 * rng.random((len(latents), 1, 1, 1), np.float32)
        latents = latents + strength * rng.standard_normal(latents.shape, np.float32)
        pixels = np.clip(pca.decode(latents) * 127.5 + 127.5, 0, 255).astype(np.uint8)
        parts.append(shrink(pixels, config.judge.size))
    return torch.cat(parts)


def train(config: Any, name: str = "judge") -> dict[str, float]:
    """Train on renders and their reconstructions; returns accuracies on held-out renders."""
    j, seed = config.judge, JUDGES.index(name)
    originals = pictures(config, name)
    target = labels([draw(number) for number in seeds(config, name)])
    pixels = torch.stack([shrink(originals, j.size), reconstructions(config, originals)]).half()
    torch.manual_seed(seed)
    judge, generator = Judge().train(), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(judge.parameters(), j.lr, weight_decay=0.02)
    rows, total = len(originals) - j.holdout, j.epochs * (len(originals) - j.holdout) // j.batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, j.lr, total_steps=total)
    for _ in tqdm(range(total), desc=name, mininterval=10):
        index = torch.randint(rows, (j.batch,), generator=generator)
        kind = torch.randint(2, (j.batch,), generator=generator)
        with autocast("cpu"):
            logits = judge(augment(pixels[kind, index].float(), generator))
        loss = cross_entropy(
            {k: v.float() for k, v in logits.items()}, {k: v[index] for k, v in target.items()}, tuple(target)
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    torch.save(judge.state_dict(), path(config, name))
    found = predict(judge.eval(), pixels[0, rows:].float())
    return {k: float((found[k] == v[rows:]).float().mean()) for k, v in target.items()}


@torch.no_grad()
def examine(judge: Judge, pixels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Features and attribute indices of pictures (n, 3, size, size)."""
    features = torch.cat([judge.features(part) for part in pixels.split(100)])
    return features, {name: logits.argmax(1) for name, logits in judge.heads(features).items()}


def predict(judge: Judge, pixels: Tensor) -> dict[str, Tensor]:
    """Attribute indices of pictures (n, 3, size, size)."""
    return examine(judge, pixels)[1]


def load(config: Any, name: str = "judge") -> Judge:
    """A trained judge; ValueError if there is none."""
    if not path(config, name).exists():
        raise ValueError(f"{path(config, name)} does not exist: train it first (python -m training judge {name})")
    judge = Judge()
    judge.load_state_dict(torch.load(path(config, name), map_location="cpu"))
    return judge.eval()
