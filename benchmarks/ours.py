"""Darkroom in process: the embedded engine behind its gate, and the whole pipeline of a request."""

import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.peers import GUIDANCE, STEPS
from service.engines.contract import Ticket
from service.engines.factory import open_engine
from service.pipeline import generate
from service.recipe import Overrides, load_presets, resolve
from service.settings import Settings


class Darkroom:
    """One engine on one repository, its text cache off; Euler on a linspace grid as the peers run it."""

    def __init__(self, entries: Path, name: str, precision: str = "auto") -> None:
        cache = Path(tempfile.gettempdir()) / "darkroom-benchmarks"
        settings = Settings(model_repository=entries, precision=precision, text_cache=0, cache_dir=cache)
        self.engine, self.name = open_engine(settings), name

    def __call__(self, prompt: str, seed: int) -> np.ndarray:
        """Prompt and seed -> pixels [H, W, 3] in [0, 1]."""
        return self.draw(prompt, seed)[0]

    def draw(self, prompt: str, seed: int) -> tuple[np.ndarray, dict[str, float]]:
        """The picture, and the timings of its stages."""
        overrides = Overrides(
            prompt=prompt, seed=seed, model=self.name, preset="balanced", sampler="euler", schedule="linspace",
            num_inference_steps=STEPS, guidance_scale=GUIDANCE, guidance_interval=None, epsilon_scaling=None,
        )  # fmt: skip
        recipe = resolve(overrides, load_presets(), self.engine.models, self.engine.name, self.engine.precision)
        picture = generate(self.engine, recipe, Ticket())
        return picture.pixels.astype(np.float32) / 255, picture.timings

    def maths_share(self) -> str:
        """What of a sampling step is not the network: the sampler, guidance, noise and casts."""
        for prompt in ("warm up", "a picture"):
            start = time.perf_counter()
            timings = self.draw(prompt, 0)[1]
            total = time.perf_counter() - start
        overhead = (timings["denoise"] - timings["network"]) / STEPS
        stages = ", ".join(f"{stage} {timings[stage] * 1e3:.1f} ms" for stage in ("text_encode", "denoise", "decode"))
        share = 100 * overhead * STEPS / timings["denoise"]
        return f"sampler maths {overhead * 1e3:.2f} ms a step, {share:.1f} % of it; {stages}, all {total * 1e3:.1f} ms"
