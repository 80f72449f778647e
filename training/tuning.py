"""Quality tuning (Emu, Dai et al. 2023, sec. 3.2): few curated pictures, small batches, noise offset, an early stop.

The loss goes on falling after the pictures have stopped getting better, so the stop is measured: every so often the
validation judge compares pictures of held-out prompts with the pretrained model's.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from training import (
    autoencoder,
    checkpoint,
    curation,
    data,
    evaluate,
    features,
    judge,
    preference,
    sampling,
    stages,
    text,
    unet,
)
from training.world import captions, draw

History = list[dict[str, float]]
Validate = Callable[[list[Tensor]], dict[str, float]]  # averaged weights -> measurements
START = {"step": 0.0, "preferred": 0.5, "accuracy": 0.0}  # the pretrained model beside itself


class Chosen:
    """Latents and captions of a few pictures, held in memory on one device."""

    def __init__(self, latents: Tensor, texts: Tensor, empty: Tensor) -> None:
        """Latents (n, c, h, w), text features (n, captions, length, width), those of "" (length, width)."""
        self.latents, self.texts, self.empty = latents, texts, empty

    def batch(self, rng: np.random.Generator, size: int, dropout: float) -> tuple[Tensor, Tensor]:
        device = self.latents.device
        rows, which = (torch.from_numpy(rng.integers(n, size=size)).to(device) for n in self.texts.shape[:2])
        dropped = torch.from_numpy(rng.random(size) < dropout).to(device)[:, None, None]
        return self.latents[rows].float(), torch.where(dropped, self.empty, self.texts[rows, which]).float()


def chosen(config: Any, name: str) -> Chosen:
    """The pictures of a selection and their mirror images, encoded."""
    seeds, (tokenizer, encoder) = curation.selection(config, name), text.load(config.paths.runs)
    pca, views = autoencoder.pca(config), list[tuple[NDArray[Any], NDArray[Any]]]()
    for part in _pictures(config, seeds):
        views.append((pca.encode(part), pca.encode(part[:, :, ::-1])))
    plain, mirrored = (torch.from_numpy(np.concatenate(view)) for view in zip(*views, strict=True))
    texts = [c for seed in seeds for c in captions(draw(seed), config.text.per_picture)]
    encoded = text.encode(tokenizer, encoder.to(config.device), ["", *texts]).half()
    rows = encoded[1:].unflatten(0, (len(seeds), -1))
    fit = torch.tensor([features.mirrors(draw(seed)) for seed in seeds])
    latents = torch.cat([plain, mirrored[fit]]).half().to(config.device)
    return Chosen(latents, torch.cat([rows, rows[fit.to(rows.device)]]), encoded[0])


def _pictures(config: Any, seeds: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
    """Pictures of these seeds from the rendered chunks, a few at a time."""
    for part in tqdm(np.array_split(np.array(seeds), -(-len(seeds) // 100)), "latents"):
        rows = [divmod(int(seed) - config.world.seed, config.world.chunk) for seed in part]
        yield np.stack([data.load(config, chunk)[row] for chunk, row in rows])


class Validation:
    """How much better than the pretrained model's are the pictures of held-out prompts, and do they still obey?"""

    def __init__(self, config: Any, pretrained: UNet2DConditionModel) -> None:
        self.config, self.pictures = config, sampling.Pictures(config)
        self.taste = preference.load(config, "validation").to(config.device)
        self.referee = judge.load(config)
        t = config.tuning
        scenes = [draw(t.validation_seed + i) for i in range(t.prompts)]
        self.prompts, self.seeds = [captions(scene, 1)[0] for scene in scenes], range(t.prompts)
        self.target = text.labels(scenes)
        self.reference, self.accuracy = self._examine(pretrained)

    def __call__(self, net: UNet2DConditionModel) -> dict[str, float]:
        """Mean probability of preference to the pretrained model, and the change of attribute accuracy."""
        scores, accuracy = self._examine(net)
        preferred = torch.sigmoid(scores - self.reference).mean()
        return {"preferred": float(preferred), "accuracy": accuracy - self.accuracy}

    def _examine(self, net: UNet2DConditionModel) -> tuple[Tensor, float]:
        made = self.pictures.drawer(net)(self.prompts, self.seeds)
        found = judge.predict(self.referee, judge.shrink(made, self.config.judge.size))
        rates = evaluate.rates(found, self.target).values()
        accuracy = sum(rate.hits for rate in rates) / max(sum(rate.total for rate in rates), 1)
        return preference.score(self.taste, made, self.config.preference.size), accuracy


def optimum(history: History, tolerance: float) -> int:
    """Index of the most preferred measurement among those whose accuracy fell by no more than the tolerance."""
    allowed = [i for i, row in enumerate(history) if row["accuracy"] >= -tolerance]
    return max(allowed, key=lambda i: history[i]["preferred"], default=0)


def search(config: Any, name: str, trainer: unet.Trainer, source: unet.Source, validate: Validate) -> History:
    """Train until the measured optimum lies ``patience`` measurements back; runs/<name>.pt holds its weights.

    What the search resumes from is runs/<name>.search.
    """
    t, optimal = config.tuning, stages.path(config, name)
    state = optimal.with_suffix(".search")
    history: History = stages.resume(state, trainer).get("history", [])
    if not history:
        history = [START]
        checkpoint.save(optimal, {"ema": trainer.ema, "step": 0, "samples": 0})
    while len(history) - 1 - optimum(history, t.tolerance) < t.patience and trainer.step_number < t.max_steps:
        until = min(trainer.step_number + t.every, t.max_steps)
        stages.advance(config, name, trainer, source, until, t.max_steps)
        history = [*history, {"step": float(trainer.step_number)} | validate(trainer.ema)]
        if optimum(history, t.tolerance) == len(history) - 1:
            checkpoint.save(optimal, {key: trainer.state()[key] for key in ("ema", "step", "samples")})
        checkpoint.save(state, trainer.state() | {"history": history})
    return history


def tune(config: Any, name: str) -> History:
    """Tune the pretrained UNet on a selection."""
    pretrained, net = (stages.load(config, "unet") for _ in range(2))
    trainer = unet.Trainer(net.train().requires_grad_(True), stages.settings(config, "tuning"))
    validation = Validation(config, pretrained)
    return search(config, name, trainer, chosen(config, name), lambda ema: validation(stages.network(config, ema)))
