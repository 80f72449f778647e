"""Pictures as a user gets them: the exported model on the serving engine, by one of its presets."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from service.engines.contract import Ticket
from service.engines.factory import open_engine
from service.pipeline import generate
from service.recipe import Overrides, load_presets, resolve
from service.settings import Settings


class Served:
    """The embedded engine on the exported model, every picture by one preset."""

    def __init__(self, config: Any) -> None:
        self.model, self.preset = config.paths.model.name, config.evaluation.preset
        self.engine = open_engine(Settings(model_repository=config.paths.repository, default_model=self.model))

    def draw(self, prompts: Sequence[str], seeds: Sequence[int]) -> NDArray[np.uint8]:
        """Pictures (n, size, size, 3); picture i depends on prompts[i] and seeds[i] alone."""
        return np.stack([self._one(prompt, seed) for prompt, seed in zip(tqdm(prompts), seeds, strict=True)])

    def _one(self, prompt: str, seed: int) -> NDArray[np.uint8]:
        asked = Overrides(model=self.model, preset=self.preset, prompt=prompt, seed=seed)
        recipe = resolve(asked, load_presets(), self.engine.models, self.engine.name, self.engine.precision)
        return generate(self.engine, recipe, Ticket()).pixels
