"""Automatic curation of the wide set (Emu, Dai et al. 2023, sec. 3.1): filters, score, clusters, no duplicates.

The world's own quality axis is never read here, save in the report and on other seeds, as the labels of a few hundred
pictures.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2, vq
from torch import Tensor
from tqdm import tqdm

from training import curator, data, text
from training.world import captions, draw

Array = NDArray[Any]


def clusters(points: Array, count: int, fitted: int = 20_000) -> NDArray[np.int_]:
    """k-means on unit-variance features, fitted on at most ``fitted`` of them."""
    points = (points - points.mean(0)) / (points.std(0) + 1e-6)
    rng = np.random.default_rng(0)
    some = points[rng.permutation(len(points))[:fitted]]
    centres, _ = kmeans2(some.astype(np.float64), count, minit="++", rng=rng)
    return np.asarray(vq(points, centres)[0])


def quotas(sizes: Array, count: int, power: float) -> NDArray[np.int_]:
    """Share ``count`` out in proportion to sizes^power, nobody more than its size; power 1 keeps the pool's shares."""
    given = np.zeros(len(sizes), int)
    count = min(count, int(sizes.sum()))
    while (left := count - given.sum()) > 0:
        weight = np.where(given < sizes, sizes.astype(float) ** power, 0.0)
        wanted = left * weight / weight.sum()
        more = np.floor(wanted).astype(int)
        if not more.any():  # largest remainders
            more[np.argsort(-wanted, kind="stable")[:left]] = 1
        given = np.minimum(given + more, sizes)
    return given


def select(score: Array, cluster: Array, thumbnails: Array, count: int, power: float, distance: float) -> list[int]:
    """The best-scored pictures of every cluster within its quota, none nearer than ``distance`` to another.

    What duplicates leave open goes to the clusters that have more to give. Best score first.
    """
    ranked = np.argsort(-score, kind="stable")
    queues = [list(ranked[cluster[ranked] == c]) for c in range(int(cluster.max(initial=-1)) + 1)]
    chosen: list[int] = []
    while len(chosen) < count and any(queues):
        quota = quotas(np.array([len(queue) for queue in queues]), count - len(chosen), power)
        for queue, take in zip(queues, quota, strict=True):
            chosen += _distinct(queue, int(take), chosen, thumbnails, distance)
    return sorted(chosen, key=lambda i: -score[i])


def _distinct(queue: list[int], take: int, chosen: list[int], thumbnails: Array, distance: float) -> list[int]:
    """Pop from the queue until ``take`` pictures are found that resemble no other."""
    found: list[int] = []
    while queue and len(found) < take:
        candidate, others = queue.pop(0), thumbnails[chosen + found]
        if not len(others) or np.square(others - thumbnails[candidate]).mean(1).min() > distance**2:
            found.append(candidate)
    return found


def coverage(scenes: Sequence[Any], names: Sequence[str]) -> set[tuple[str, ...]]:
    """The combinations of these attributes that occur."""
    return {tuple(scene.attributes()[name] for name in names) for scene in scenes}


def path(config: Any) -> Path:
    return Path(config.paths.runs / "curation.json")


def selection(config: Any, name: str) -> list[int]:
    """Seeds of a finished selection, such as "curated-2000" or "random-2000"."""
    chosen: dict[str, list[int]] = json.loads(path(config).read_text())["selections"]
    if name not in chosen:
        raise ValueError(f"there is no selection {name}; known: {', '.join(chosen)}")
    return chosen[name]


def measure(config: Any, net: curator.Curator) -> tuple[Array, Array, Array, Array]:
    """Seeds, statistics, scores and thumbnails of every rendered picture."""
    rows = []
    for chunk in tqdm(data.finished(config), "curation"):
        pictures = data.load(config, chunk)
        rows.append((np.array(data.seeds(config, chunk)), *curator.examine(net, pictures)))
    seeds, statistics, scores, thumbnails = (np.concatenate(part) for part in zip(*rows, strict=True))
    return seeds, statistics, scores, thumbnails


@torch.no_grad()
def concepts(config: Any, seeds: Array) -> Array:
    """Features of the captions, not of the pictures: a cluster is a concept and never a flaw."""
    tokenizer, encoder = text.load(config.paths.runs)
    encoder = encoder.to(config.device)
    parts: list[Tensor] = []
    for i in tqdm(range(0, len(seeds), 256), "concepts"):
        texts = [captions(draw(int(seed)), 1)[0] for seed in seeds[i : i + 256]]
        parts.append(encoder(text.token_ids(tokenizer, texts, padding=True).to(config.device)).pooler_output.cpu())
    return torch.cat(parts).numpy()


def curate(config: Any) -> dict[str, Any]:
    """Choose pictures of the rendered data set; writes seeds and report to runs/curation.json."""
    c = config.curation
    net = curator.load(config).to(config.device)
    seeds, statistics, score, thumbnails = measure(config, net)
    passed = curator.passing(statistics, net.limits.cpu().numpy())
    cluster = clusters(concepts(config, seeds), c.clusters)
    kept = np.flatnonzero(passed)
    chosen = {
        f"curated-{n}": kept[select(score[kept], cluster[kept], thumbnails[kept], n, c.power, c.distance)]
        for n in c.counts
    }
    top = kept[np.argsort(-score[kept], kind="stable")[: c.control]]
    drawn = np.random.default_rng(c.seed).permutation(len(seeds))[: c.control]
    chosen[f"random-{c.control}"] = drawn
    stages = {"pool": np.arange(len(seeds)), "filtered": kept, "top scores, no clusters": top} | chosen
    scenes = [draw(int(seed)) for seed in seeds]
    report = {name: describe([scenes[i] for i in rows], c.concepts) for name, rows in stages.items()}
    result = {"report": report, "selections": {name: [int(seeds[i]) for i in rows] for name, rows in chosen.items()}}
    path(config).write_text(json.dumps(result) + "\n")
    return report


def describe(scenes: Sequence[Any], names: Sequence[str]) -> dict[str, Any]:
    """How many pictures, the share without a flaw (the world's own truth), and how many concepts there are."""
    good = [scene.quality.good for scene in scenes]
    return {"pictures": len(scenes), "good": float(np.mean(good)), "concepts": len(coverage(scenes, names))}


def format_report(report: dict[str, Any]) -> str:
    lines = ["stage                     pictures  truly good  concepts"]
    lines += [
        f"{name:24s}  {row['pictures']:8d}  {row['good']:10.3f}  {row['concepts']:8d}" for name, row in report.items()
    ]
    return "\n".join(lines)
