"""Networks and recipes side by side on the same prompts and seeds: preference, obedience, realism."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training import data, evaluate, judge, pairs, preference, sampling, stages, student, text
from training.measures import AXES, estimate, frechet, principal_axes, pseudo_values

Entries = Mapping[str, tuple[str, dict[str, Any]]]  # label -> checkpoint, fields of the recipe
FLASH = {"sampler": "flash", "schedule": "trailing", "guidance_scale": 1.0}


def tuned(config: Any) -> Entries:
    """The pretrained model, what tuning on every selection made of it, and what the long stage did then."""
    c = config.curation
    names = ["unet", *(f"curated-{n}" for n in c.counts), f"random-{c.control}", "refined"]
    return {name: (name, {}) for name in names if stages.path(config, name).exists()}


def distilled(config: Any) -> Entries:
    """The teacher by its preset and by few steps of it, and every student that was trained."""
    teacher = config.student.checkpoint
    entries: dict[str, tuple[str, dict[str, Any]]] = {"teacher": (teacher, {"preset": config.student.preset})}
    for steps in (1, 2, 3):
        entries[f"teacher, {steps} of dpmpp_2m"] = (teacher, {"sampler": "dpmpp_2m", "num_inference_steps": steps})
    for name in student.ABLATION:
        for steps in (1, 2, 3) if stages.path(config, name).exists() else ():
            sampler = student.ABLATION[name].get("noise_correction", True)
            fields = FLASH | {"num_inference_steps": steps} | ({} if sampler else {"sampler": "euler"})
            entries[f"{name}, {steps}"] = (name, fields)
    return entries


ENTRIES = {"tuned": tuned, "distilled": distilled}


def judged(config: Any, name: str, count: int) -> dict[str, Any]:
    """A row for each entry of ENTRIES[name], compared with the first; written to runs/contest-<name>.json."""
    entries = ENTRIES[name](config)
    scenes, prompts = evaluate.prompts(config, count)
    seeds, target = [scene.seed for scene in scenes], text.labels(scenes)
    pictures, referee = sampling.Pictures(config), judge.load(config)
    taste = preference.load(config, "test").to(config.device)
    real = _features(referee, data.render_seeds(seeds, config.world.size), config.judge.size)
    axes = principal_axes(real[:, 0], AXES)
    rows: dict[str, Any] = {}
    first: Tensor | None = None
    for label, (checkpoint, fields) in entries.items():
        made = pictures.drawer(stages.load(config, checkpoint), **fields)(prompts, seeds)
        scores = preference.score(taste, made, config.preference.size)
        first = scores if first is None else first
        rates = evaluate.rates(judge.predict(referee, judge.shrink(made, config.judge.size)), target)
        distance = pseudo_values(frechet, _features(referee, made, config.judge.size) @ axes, real @ axes)
        rows[label] = {
            "preferred": asdict(preference.verdict(scores, first)),
            "accuracy": {name: rate.row() for name, rate in rates.items()},
            "frechet": asdict(estimate(distance)),
        }
    (config.paths.runs / f"contest-{name}.json").write_text(json.dumps(rows, indent=2) + "\n")
    return rows


@torch.no_grad()
def _features(referee: judge.Judge, pictures: NDArray[np.uint8], size: int) -> NDArray[np.float32]:
    """What the judge sees, (n, 1, features): one copy of every prompt."""
    parts = [judge.shrink(pictures[i : i + 100], size) for i in range(0, len(pictures), 100)]
    return torch.cat([pairs.pooled(referee.body(part)) for part in parts])[:, None].numpy()


def format_table(rows: dict[str, Any], attributes: Sequence[str]) -> str:
    """Preference over the first row, mean attribute accuracy, Frechet distance to renders: with 95 % intervals."""
    lines = [f"{'':26s}  {'preferred over the first':44s}  {'accuracy':20s}  Frechet distance"]
    for label, row in rows.items():
        verdict, distance = preference.Verdict(**row["preferred"]), row["frechet"]
        hits, total = (sum(row["accuracy"][name][key] for name in attributes) for key in ("hits", "total"))
        low, high = evaluate.Rate(hits, total).interval()
        lines.append(
            f"{label:26s}  {verdict!s:44s}  {hits / total:.3f} [{low:.3f}, {high:.3f}]"
            f"  {distance['mean']:.3f} [{distance['low']:.3f}, {distance['high']:.3f}]"
        )
    return "\n".join(lines)


def curve(config: Any, rows: dict[str, Any], target: Path) -> Path:
    """How often the tuned model is preferred to the pretrained one, over the number of pictures it was tuned on."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for number, kind in enumerate(("curated", "random")):
        counts = [n for n in sorted({*config.curation.counts, config.curation.control}) if f"{kind}-{n}" in rows]
        rates = [preference.Verdict(**rows[f"{kind}-{n}"]["preferred"]).rate for n in counts]
        shares = np.array([rate.hits / max(rate.total, 1) for rate in rates])
        ends = np.array([rate.interval() for rate in rates]).reshape(-1, 2)
        errors = np.abs(ends - shares[:, None]).T
        axis.errorbar(counts, shares, errors, fmt="o-", color=f"C{number}", capsize=3, label=kind)
    axis.axhline(0.5, color="grey", linewidth=1)
    axis.set(xscale="log", xlabel="pictures tuned on", ylabel="preferred over the pretrained model", ylim=(0, 1))
    axis.legend()
    figure.savefig(target, dpi=120)
    pyplot.close(figure)
    return target
