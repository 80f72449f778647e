"""The curator's eye: statistics of a picture, and a score learned from a few hundred labelled pictures."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from training import data, judge, pairs
from training.precision import autocast
from training.text import cross_entropy, labels
from training.world import draw

STATISTICS = ("exposure", "clipped", "contrast", "saturation", "sharpness", "noise")
LUMINANCE = (0.2126, 0.7152, 0.0722)  # Rec. 709
THUMBNAIL = 8  # pixels a side
SIDE = 128  # pixels a side that the network sees
Array = NDArray[Any]


def statistics(pixels: Tensor) -> Tensor:
    """(n, 3, h, w) in [0, 1] -> (n, 6). Contrast and saturation are of 8x8 means, in which noise is no contrast."""
    light = (pixels * pixels.new_tensor(LUMINANCE)[:, None, None]).sum(1, keepdim=True)
    coarse = nn.functional.avg_pool2d(pixels, 8)
    columns = [
        light.mean((1, 2, 3)), ((light < 0.02) | (light > 0.98)).float().mean((1, 2, 3)),
        nn.functional.avg_pool2d(light, 8).flatten(1).std(1),
        (coarse.amax(1) - coarse.amin(1)).mean((1, 2)), sharpness(light), noise(light),
    ]  # fmt: skip
    return torch.stack(columns, 1)


def sharpness(light: Tensor) -> Tensor:
    """Height of the steepest 1 % of edges between pixels over that between 2x2 means: 1 for a step, 1/2 for a ramp."""

    def steepest(plane: Tensor) -> Tensor:
        slopes = (plane[..., 1:] - plane[..., :-1]).abs().flatten(1)
        return slopes.topk(slopes.shape[1] // 100, dim=1).values.mean(1)

    return steepest(light) / (steepest(nn.functional.avg_pool2d(light, 2)) + 1e-3)


def noise(light: Tensor) -> Tensor:
    """Deviation of white noise, from the finest diagonal Haar band (Donoho & Johnstone 1994): median / 0.6745."""
    a, b, c, d = light[..., ::2, ::2], light[..., ::2, 1::2], light[..., 1::2, ::2], light[..., 1::2, 1::2]
    return ((a - b - c + d) / 2).abs().flatten(1).median(1).values / 0.6745


def passing(statistics: Array, limits: Array) -> NDArray[np.bool_]:
    """Which pictures lie within the limits, lower and upper, of every statistic."""
    return np.asarray(((statistics >= limits[0]) & (statistics <= limits[1])).all(1))


class Curator(nn.Module):
    """The judge's body, which learns attributes from the pool's captions, and a quality logit beside its heads."""

    mean: Tensor
    scale: Tensor
    limits: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.judge = judge.Judge()
        self.quality = nn.Linear(pairs.width(self.judge) + len(STATISTICS), 1)
        self.register_buffer("mean", torch.zeros(len(STATISTICS)))
        self.register_buffer("scale", torch.ones(len(STATISTICS)))
        self.register_buffer("limits", torch.zeros(2, len(STATISTICS)))  # of the labelled good pictures

    def features(self, pixels: Tensor) -> Tensor:
        return pairs.pooled(self.judge.body(pixels))

    def score(self, features: Tensor, numbers: Tensor) -> Tensor:
        """Log odds that a picture is good, (n,)."""
        return self.quality(torch.cat([features, (numbers - self.mean) / self.scale], 1))[:, 0]


def examine(net: Curator, pictures: NDArray[np.uint8]) -> tuple[Array, Array, Array]:
    """Statistics (n, 6), scores (n,) and thumbnails (n, 192) in [0, 1] of pictures (n, size, size, 3)."""
    rows = []
    for i in range(0, len(pictures), 100):
        pixels = _pixels(pictures[i : i + 100], net.mean.device)
        numbers, small = statistics(pixels), nn.functional.adaptive_avg_pool2d(pixels, THUMBNAIL)
        with torch.no_grad():
            score = net.score(net.features(_shrunk(pixels)), numbers)
        rows.append((numbers, score, small.flatten(1)))
    first, second, third = (torch.cat(part).cpu().numpy() for part in zip(*rows, strict=True))
    return first, second, third


def _pixels(pictures: NDArray[np.uint8], device: str | torch.device) -> Tensor:
    """(n, size, size, 3) uint8 -> (n, 3, size, size) in [0, 1]."""
    return torch.from_numpy(np.array(pictures)).to(device).permute(0, 3, 1, 2).float() / 255


def _shrunk(pixels: Tensor) -> Tensor:
    """What the network sees: (n, 3, SIDE, SIDE) in [-1, 1]."""
    return nn.functional.avg_pool2d(pixels, pixels.shape[-1] // SIDE) * 2 - 1


def path(config: Any) -> Path:
    return Path(config.paths.runs / "curator.pt")


def load(config: Any) -> Curator:
    net = Curator()
    net.load_state_dict(torch.load(path(config), map_location="cpu"))
    return net.eval()


def train(config: Any) -> dict[str, float]:
    """Learn attributes from the pool and quality from the labelled pairs; returns accuracies on held-out pairs."""
    c, device = config.curation, config.device
    labelled = pairs.kept(config, "curation", range(c.label_seed, c.label_seed + c.pairs))
    rows = len(labelled) - c.holdout
    numbers, eyes = _prepare(labelled.reshape(-1, *labelled.shape[2:]), device)  # better and worse alternate
    pool, target = _pool(config)
    torch.manual_seed(c.seed)
    net = Curator().to(device)
    net.mean, net.scale = numbers[: 2 * rows].mean(0), numbers[: 2 * rows].std(0)
    net.limits = torch.quantile(numbers[: 2 * rows : 2], numbers.new_tensor([c.tail, 1 - c.tail]), dim=0)
    optimizer = torch.optim.AdamW(net.parameters(), c.lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, c.lr, total_steps=c.steps)
    rng = np.random.default_rng(c.seed)
    for _ in tqdm(range(c.steps), "curator", mininterval=10):
        few, many = (torch.from_numpy(rng.integers(n, size=c.batch)).to(device) for n in (2 * rows, len(pool)))
        with autocast(device):
            score = net.score(net.features(pairs.moved(eyes[few].float(), rng)), numbers[few])
            logits = net.judge(pool[many].float())
        loss = nn.functional.binary_cross_entropy_with_logits(score.float(), (few % 2 == 0).float())
        loss = loss + cross_entropy(
            {k: v.float() for k, v in logits.items()}, {k: v[many] for k, v in target.items()}, tuple(target)
        ) / len(target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    torch.save(net.state_dict(), path(config))
    return _accuracy(net.eval(), labelled[rows:])


def _prepare(pictures: NDArray[np.uint8], device: str) -> tuple[Tensor, Tensor]:
    """Statistics, and what the network sees in float16."""
    parts = [_pixels(pictures[i : i + 100], device) for i in range(0, len(pictures), 100)]
    return torch.cat([statistics(part) for part in parts]), torch.cat([_shrunk(part).half() for part in parts])


def _pool(config: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """Pictures of the pool with the attributes that their captions name."""
    chunks = data.finished(config)[: -(-config.curation.pool // config.world.chunk)]
    eyes = torch.cat([_prepare(data.load(config, chunk), config.device)[1] for chunk in chunks])
    target = labels([draw(seed) for chunk in chunks for seed in data.seeds(config, chunk)])
    return eyes, {name: values.to(config.device) for name, values in target.items()}


def _accuracy(net: Curator, labelled: NDArray[np.uint8]) -> dict[str, float]:
    """On held-out pairs: how often the score tells the label and orders the pair, and what passes the filters."""
    numbers, score, _ = examine(net, labelled.reshape(-1, *labelled.shape[2:]))
    better, worse = score[::2], score[1::2]
    passed = passing(numbers, net.limits.cpu().numpy())
    return {
        "label": float(np.mean(np.concatenate([better > 0, worse < 0]))), "order": float(np.mean(better > worse)),
        "good passed": float(passed[::2].mean()), "flawed passed": float(passed[1::2].mean()),
    }  # fmt: skip
