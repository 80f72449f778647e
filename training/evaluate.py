"""How good are presets? The judge's verdict on pictures of held-out prompts, beside renders of the same prompts."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import beta
from torch import Tensor

from training import judge, text
from training.measures import Estimate, Renders, estimate, not_dominated
from training.served import Served
from training.world import VOCABULARY, Scene, again, captions, draw, render

RENDERS = "renders"  # the row of pictures that are right by construction
OTHER = 1_000_000  # between the seeds of two copies of one prompt


@dataclass(frozen=True)
class Rate:
    """A share of successes with its Clopper-Pearson 95 % interval."""

    hits: int
    total: int

    def interval(self) -> tuple[float, float]:
        low = beta.ppf(0.025, self.hits, self.total - self.hits + 1) if self.hits else 0.0
        high = beta.ppf(0.975, self.hits + 1, self.total - self.hits) if self.hits < self.total else 1.0
        return float(low), float(high)

    def row(self) -> dict[str, Any]:
        return {
            "rate": self.hits / max(self.total, 1),
            "interval": self.interval(),
            "hits": self.hits,
            "total": self.total,
        }


@dataclass(frozen=True)
class Seen:
    """What the judge sees in pictures: features [prompts, copies, d], attribute indices [prompts, copies]."""

    features: NDArray[np.float32]
    found: dict[str, Tensor]


def named(target: dict[str, Tensor]) -> dict[str, Tensor]:
    """Which attributes count: kind and colour only where the prompt names an object."""
    objects = target["kind"].ne(len(VOCABULARY["kind"]) - 1)
    return {name: objects if name in ("kind", "colour") else torch.ones_like(objects) for name in judge.HEADS}


def rates(found: dict[str, Tensor], target: dict[str, Tensor]) -> dict[str, Rate]:
    """Hits per attribute, of those that count."""
    return {
        name: Rate(int((found[name].eq(target[name]) & counts).sum()), int(counts.sum()))
        for name, counts in named(target).items()
    }


def accuracy(found: dict[str, Tensor], target: dict[str, Tensor]) -> NDArray[np.float64]:
    """Share of the attributes that count and are right, per picture: found [prompts, copies], target [prompts]."""
    counts = named(target)
    hits = torch.stack([found[name].eq(target[name][:, None]) & counts[name][:, None] for name in judge.HEADS])
    shares = hits.sum(0) / torch.stack([counts[name] for name in judge.HEADS]).sum(0)[:, None]
    return np.asarray(shares, np.float64)


def prompts(config: Any, count: int) -> tuple[list[Scene], list[str]]:
    """Held-out scenes and one caption of each."""
    scenes = [draw(config.world.evaluation_seed + i) for i in range(count)]
    return scenes, [captions(scene, 1)[0] for scene in scenes]


def renders(scenes: Sequence[Scene], copies: Iterable[int], size: int) -> Iterable[NDArray[np.uint8]]:
    """Copy 0 of a scene is the scene, the others are what else its description may mean."""
    for copy in copies:
        yield np.stack([render(again(s, s.seed + copy * OTHER) if copy else s, size) for s in scenes])


def look(referee: judge.Judge, copies: Iterable[NDArray[np.uint8]], size: int) -> Seen:
    """Show the judge pictures (prompts, h, w, 3), copy by copy."""
    features, found = zip(*(judge.examine(referee, judge.shrink(pictures, size)) for pictures in copies), strict=True)
    return Seen(
        torch.stack(features, 1).numpy(), {name: torch.stack([f[name] for f in found], 1) for name in judge.HEADS}
    )


def evaluate(config: Any, presets: Sequence[str] = (), count: int | None = None) -> dict[str, Any]:
    """Rows of ``renders`` and of every preset: attributes, floor (shuffled prompts) and measures; kept in runs."""
    scenes, texts = prompts(config, count or config.evaluation.prompts)
    copies, size, referee = config.evaluation.copies, config.judge.size, judge.load(config)
    served, target = Served(config), text.labels(scenes)
    presets = presets or (config.evaluation.preset,)
    for preset in presets:
        served.recipe(preset, "", 0)  # before the long work
    beside = Renders(look(referee, renders(scenes, range(copies, 2 * copies), config.world.size), size).features)

    def row(seen: Seen) -> dict[str, Any]:
        first = {name: indices[:, 0] for name, indices in seen.found.items()}
        shuffle = torch.randperm(len(scenes), generator=torch.Generator().manual_seed(0))
        values = {"accuracy": accuracy(seen.found, target).mean(1)} | beside.measure(seen.features)
        return {
            "attributes": {name: rate.row() for name, rate in rates(first, target).items()},
            "floor": {k: r.row() for k, r in rates({k: v[shuffle] for k, v in first.items()}, target).items()},
            "measures": {name: asdict(estimate(value)) for name, value in values.items()},
        }

    def drawn(preset: str) -> Iterable[NDArray[np.uint8]]:
        return (served.draw(texts, [s.seed + copy * OTHER for s in scenes], preset) for copy in range(copies))

    result = {RENDERS: row(look(referee, renders(scenes, range(copies), config.world.size), size))}
    for preset in presets:
        result[preset] = row(look(referee, drawn(preset), size))
    (config.paths.runs / "evaluation.json").write_text(json.dumps(result, indent=2) + "\n")
    return result


def estimates(result: dict[str, Any]) -> dict[str, dict[str, Estimate]]:
    """Measures of every row."""
    return {name: {k: Estimate(**v) for k, v in row["measures"].items()} for name, row in result.items()}


def front(rows: dict[str, dict[str, Estimate]]) -> list[str]:
    """The presets that no other beats in consistency, diversity and realism at once (Astolfi et al. 2024)."""
    return not_dominated(
        {
            name: (row["accuracy"].mean, row["diversity"].mean, -row["frechet"].mean)
            for name, row in rows.items()
            if name != RENDERS
        }
    )


def format_table(result: dict[str, Any]) -> str:
    """The evaluation as text: a line per preset, then one per attribute of each."""
    rows = estimates(result)
    best, titles = front(rows), list(rows[RENDERS])
    lines = [f"{'':18s}" + "".join(f"{title:>27s}" for title in titles)]
    for name, row in rows.items():
        mark = "* " if name in best else "  "
        lines.append(f"{mark}{name:16s}" + "".join(f"{row[title]!s:>27s}" for title in titles))
    lines.append("* no other preset is better in accuracy, diversity and Frechet distance at once")
    for name in result:
        if name != RENDERS:
            lines += ["", *_attributes(name, result)]
    return "\n".join(lines)


def _attributes(preset: str, result: dict[str, Any]) -> list[str]:
    lines = [f"{preset:16s}  accuracy  95 % interval    ceiling  floor  prompts"]
    for name in judge.HEADS:
        row = result[preset]["attributes"][name]
        low, high = row["interval"]
        ceiling, floor = result[RENDERS]["attributes"][name]["rate"], result[preset]["floor"][name]["rate"]
        lines.append(
            f"{name:16s}  {row['rate']:8.3f}  [{low:.3f}, {high:.3f}]  {ceiling:9.3f}  {floor:5.3f}  {row['total']:7d}"
        )
    return lines
