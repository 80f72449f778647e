"""Draw, judge and remember: one file per prompt, in which every recipe has a row per copy."""

import hashlib
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from service.diffusion.types import Array, Denoised, Denoiser
from service.engines.buckets import LANES
from service.engines.contract import Engine, Ticket
from service.pipeline import generate
from service.recipe import Recipe
from training import evaluate, judge, text
from training.evaluate import RENDERS
from training.world import VOCABULARY, Scene

COPIES = 2  # pictures of a prompt, by seed
REFERENCES = 4  # renders of a prompt that pictures are held against
Row = NDArray[Any]  # structured: features, accuracy, kind, seconds and latent of every copy


@dataclass(frozen=True)
class Bench:
    """Engine, judge and the folder of what is known; the folder changes with the judge."""

    engine: Engine
    referee: judge.Judge
    config: Any
    folder: Path

    @classmethod
    def open(cls, engine: Engine, config: Any, folder: Path) -> "Bench":
        digest = hashlib.sha256(judge.path(config).read_bytes()).hexdigest()[:8]
        return cls(engine, judge.load(config), config, folder / f"judged-by-{digest}")

    def file(self, prompt: int) -> Path:
        return self.folder / f"prompt-{prompt:04d}.npz"

    def load(self, prompt: int) -> dict[str, Row]:
        """Rows of one prompt by key of the recipe; none where it was not begun."""
        file = self.file(prompt)
        if not file.exists():
            return {}
        with np.load(file) as content:
            return dict(content)

    def save(self, prompt: int, rows: Mapping[str, Row]) -> None:
        """Write beside the target, then rename: a run that is stopped leaves whole files."""
        file = self.file(prompt)
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".partial.npz")
        np.savez(partial, allow_pickle=False, **rows)
        partial.rename(file)


@dataclass(frozen=True)
class Prompt:
    """A held-out scene and its caption."""

    scene: Scene
    text: str

    def asks(self, recipe: Recipe, copy: int) -> Recipe:
        return recipe.model_copy(update={"prompt": self.text, "seed": self.scene.seed + copy * evaluate.OTHER})


def measure(bench: Bench, recipes: Mapping[str, Recipe], count: int, minutes: float) -> None:
    """Prompt by prompt, every recipe that has no row yet, so that all have the same prompts whenever time is up."""
    start, longest = time.monotonic(), 0.0
    prompts = [Prompt(*both) for both in zip(*evaluate.prompts(bench.config, count), strict=True)]
    for number, prompt in enumerate(tqdm(prompts, "prompts")):
        began = time.monotonic()
        if began + longest > start + 60 * minutes:
            break
        known = bench.load(number)
        missing = {digest: recipe for digest, recipe in recipes.items() if digest not in known}
        if missing and not longest:
            drawn(bench.engine, list(recipes.values())[: 2 * LANES])  # what is compiled late is compiled now
        if RENDERS not in known:
            known[RENDERS] = judged(bench, prompt.scene, renders(bench, prompt.scene))
        if missing:
            bench.save(number, known | rows(bench, prompt, missing, np.random.default_rng(number)))
            longest = max(longest, time.monotonic() - began)


def rows(bench: Bench, prompt: Prompt, recipes: Mapping[str, Recipe], rng: np.random.Generator) -> dict[str, Row]:
    """The rows of one prompt, drawn in random order, so that the drift of the machine falls on all recipes alike."""
    wanted = [(digest, copy) for digest in recipes for copy in range(COPIES)]
    order = [wanted[i] for i in rng.permutation(len(wanted))]
    pictures = drawn(bench.engine, [prompt.asks(recipes[digest], copy) for digest, copy in order])
    row = judged(bench, prompt.scene, np.stack([one.pixels for one in pictures]), pictures[0].latent.shape)
    row["seconds"] = [one.seconds for one in pictures]
    row["latent"] = [one.latent for one in pictures]
    return {digest: row[[order.index((digest, copy)) for copy in range(COPIES)]] for digest in recipes}


@dataclass(frozen=True)
class Drawn:
    """Pixels, the latent they were decoded from, and the wall time of the request."""

    pixels: NDArray[np.uint8]
    latent: Array
    seconds: float


def drawn(engine: Engine, recipes: Sequence[Recipe]) -> list[Drawn]:
    """Pictures in order, as many at once as the engine has lanes."""
    with ThreadPoolExecutor(LANES) as pool:
        return list(pool.map(lambda recipe: draw(engine, recipe), recipes))


def draw(engine: Engine, recipe: Recipe) -> Drawn:
    """One request; every sampler ends in the x0 of its last estimate."""
    last: list[Array] = []

    def watch(denoise: Denoiser) -> Denoiser:
        def watched(x: Array, sigma: float) -> Denoised:
            estimate = denoise(x, sigma)
            last[:] = [estimate.x0]
            return estimate

        return watched

    start = time.perf_counter()
    pixels = generate(engine, recipe, Ticket(), watch).pixels
    return Drawn(pixels, last[0], time.perf_counter() - start)


def renders(bench: Bench, scene: Scene) -> NDArray[np.uint8]:
    """Renders of the prompt: COPIES to be judged like pictures, then the REFERENCES."""
    return np.concatenate(list(evaluate.renders([scene], range(COPIES + REFERENCES), bench.config.world.size)))


def judged(bench: Bench, scene: Scene, pictures: NDArray[np.uint8], latent: tuple[int, ...] = (0,)) -> Row:
    """A row per picture; kind is NaN where the prompt names no object; seconds and latent are left open."""
    pixels, target = judge.shrink(pictures, bench.config.judge.size), text.labels([scene])
    features, found = judge.examine(bench.referee, pixels)
    numbers = [(name, "f8") for name in ("accuracy", "kind", "seconds")]
    shapes = [("features", "f4", features.shape[1:]), ("latent", "f2", latent)]
    row = np.full(len(pictures), np.nan, np.dtype([*numbers, *shapes]))
    row["features"] = features.numpy()
    row["accuracy"] = evaluate.accuracy({name: indices[None] for name, indices in found.items()}, target)[0]
    if scene.solids:
        row["kind"] = np.equal(found["kind"].numpy(), VOCABULARY["kind"].index(scene.solids[0].kind))
    return row
