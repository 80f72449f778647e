"""Pictures as a user gets them: the exported model on the serving engine, by its presets."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from service.engines.buckets import LANES
from service.engines.contract import Ticket
from service.engines.factory import open_engine
from service.pipeline import generate
from service.recipe import Overrides, Recipe, load_presets, resolve
from service.settings import Settings


class Served:
    """The embedded engine on the exported model."""

    def __init__(self, config: Any) -> None:
        self.model, self.preset = config.paths.model.name, config.evaluation.preset
        self.engine = open_engine(Settings(model_repository=config.paths.repository, default_model=self.model))

    def draw(self, prompts: Sequence[str], seeds: Sequence[int], preset: str | None = None) -> NDArray[np.uint8]:
        """Pictures (n, size, size, 3); picture i depends on prompts[i], seeds[i] and the preset alone."""
        one = partial(self._one, preset or self.preset)
        with ThreadPoolExecutor(LANES) as pool:
            return np.stack(list(tqdm(pool.map(one, prompts, seeds), preset, total=len(prompts))))

    def recipe(self, preset: str, prompt: str, seed: int) -> Recipe:
        """What a user who chooses this preset gets; raises InvalidRequest if it is not for the model."""
        asked = Overrides(model=self.model, preset=preset, prompt=prompt, seed=seed)
        return resolve(asked, load_presets(), self.engine.models, self.engine.name, self.engine.precision)

    def _one(self, preset: str, prompt: str, seed: int) -> NDArray[np.uint8]:
        return generate(self.engine, self.recipe(preset, prompt, seed), Ticket()).pixels
