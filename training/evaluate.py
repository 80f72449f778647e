"""Does the model draw what the prompt says? Accuracies of the judge on pictures of held-out prompts."""

import json
from dataclasses import dataclass
from typing import Any

import torch
from scipy.stats import beta

from training import judge, text
from training.served import Served
from training.world import VOCABULARY, captions, draw


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


def rates(found: dict[str, torch.Tensor], target: dict[str, torch.Tensor]) -> dict[str, Rate]:
    """Hits per attribute; kind and colour count only where the prompt names an object."""
    named = target["kind"].ne(len(VOCABULARY["kind"]) - 1)
    keep = {name: named if name in ("kind", "colour") else torch.ones_like(named) for name in judge.HEADS}
    hits = {name: found[name].eq(target[name]) & keep[name] for name in judge.HEADS}
    return {name: Rate(int(hits[name].sum()), int(keep[name].sum())) for name in judge.HEADS}


def prompts(config: Any, count: int) -> tuple[list[Any], list[str]]:
    """Held-out scenes and one caption of each."""
    scenes = [draw(config.world.evaluation_seed + i) for i in range(count)]
    return scenes, [captions(scene, 1)[0] for scene in scenes]


def evaluate(config: Any, count: int | None = None) -> dict[str, Any]:
    """Accuracy of generated pictures, the ceiling on renders of the same scenes, the floor with shuffled prompts."""
    from training.data import render_seeds

    scenes, texts = prompts(config, count or config.evaluation.prompts)
    seeds = [scene.seed for scene in scenes]
    referee, target = judge.load(config), text.labels(scenes)
    made = judge.predict(referee, judge.shrink(Served(config).draw(texts, seeds), config.judge.size))
    real = judge.predict(referee, judge.shrink(render_seeds(seeds, config.world.size), config.judge.size))
    shuffle = torch.randperm(len(scenes), generator=torch.Generator().manual_seed(0))
    shuffled = rates({k: v[shuffle] for k, v in made.items()}, target)
    table = {"accuracy": rates(made, target), "ceiling": rates(real, target), "floor": shuffled}
    result = {name: {k: r.row() for k, r in row.items()} for name, row in table.items()}
    (config.paths.runs / "evaluation.json").write_text(json.dumps(result, indent=2) + "\n")
    return result


def format_table(result: dict[str, Any]) -> str:
    """The evaluation as text: one line per attribute."""
    lines = ["attribute  accuracy  95 % interval    ceiling  floor  prompts"]
    for name in judge.HEADS:
        row = result["accuracy"][name]
        low, high = row["interval"]
        ceiling, floor = result["ceiling"][name]["rate"], result["floor"][name]["rate"]
        lines.append(
            f"{name:9s}  {row['rate']:8.3f}  [{low:.3f}, {high:.3f}]  {ceiling:9.3f}  {floor:5.3f}  {row['total']:7d}"
        )
    return "\n".join(lines)
