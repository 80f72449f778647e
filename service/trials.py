"""What a calibration measures: pictures of given prompts and seeds, side by side, kept in a file as they are made."""

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from io import BytesIO
from pathlib import Path
from typing import Any

import click
import numpy as np

from service import pipeline
from service.diffusion import align
from service.diffusion.schedules import SCHEDULES
from service.diffusion.types import Array, Denoised, Denoiser
from service.engines.contract import Engine, Ticket
from service.errors import EngineFailure, InvalidRequest
from service.recipe import Recipe, parameterization

WORKERS = 8  # pictures side by side; the gate merges their network calls
SECONDS = 5.0  # of work that a killed process may lose

Measured = Mapping[str, Array]


class State:
    """What has been measured, by name, in a file that grows with every picture and belongs to one calibration."""

    def __init__(self, file: Path, run: Mapping[str, Any]) -> None:
        mine = json.dumps(run, sort_keys=True)
        self._file = file
        self._kept: dict[str, Measured] = _read(file) if file.exists() else {"run": {"json": np.array(mine)}}
        if str(self._kept.get("run", {}).get("json")) != mine:
            message = f"{file} is of another calibration: finish that one, delete the file, or choose another output"
            raise InvalidRequest(message, field="output")
        self.save()  # at once, should it not be possible

    def __contains__(self, name: str) -> bool:
        return name in self._kept

    def __getitem__(self, name: str) -> Measured:
        return self._kept[name]

    def __setitem__(self, name: str, measured: Measured) -> None:
        self._kept[name] = measured
        if time.monotonic() > self._saved + SECONDS:
            self.save()

    def delete(self) -> None:
        """Nothing is left to be done."""
        self._file.unlink()

    def save(self) -> None:
        """Write everything down."""
        flat: dict[str, Any] = {f"{name}:{part}": a for name, parts in self._kept.items() for part, a in parts.items()}
        new = self._file.with_name(self._file.name + ".new")
        with new.open("wb") as file:
            np.savez(file, **flat)
        os.replace(new, self._file)
        self._saved = time.monotonic()


def _read(file: Path) -> dict[str, Measured]:
    kept: dict[str, dict[str, Array]] = {}
    try:
        with np.load(BytesIO(file.read_bytes()), allow_pickle=False) as arrays:
            for key in arrays.files:
                name, part = key.rsplit(":", 1)
                kept.setdefault(name, {})[part] = arrays[key]
    except OSError:
        raise
    except Exception as error:  # numpy, zipfile and zlib have one each
        raise InvalidRequest(f"{file} is damaged: delete it to begin anew", field="output") from error
    return {**kept}


class Pictures:
    """The pictures of a calibration: the prompts in turn, with the seeds seed, seed + 1, ..."""

    def __init__(
        self, engine: Engine, recipe: Recipe, prompts: Sequence[str], state: State, *, count: int, levels: int
    ) -> None:
        self.recipe, self.model = recipe, engine.models[recipe.model]
        self.noise_levels = parameterization(self.model, recipe.zero_terminal_snr).noise_levels
        self.levels: Array = SCHEDULES["exponential"](self.noise_levels, levels)[-2::-1]  # [K] ascending
        prompted = [{"prompt": prompts[i % len(prompts)], "seed": recipe.seed + i} for i in range(count)]
        self._recipes = [recipe.model_copy(update=update) for update in prompted]
        self._engine, self._state, self._ticket = engine, state, Ticket()

    def converged(self, *, paths: bool) -> Measured:
        """Of runs in many small steps: latent [pictures, C, h, w], and norms of eps [pictures, K] at the levels.

        With paths also the disagreements [pictures, K, K] of the denoiser between the levels of forward paths.
        """
        sigmas = (*self.levels[::-1].tolist(), 0.0)
        fine: dict[str, Any] = {"sampler": "dpmpp_2m", "sampler_options": {}, "sigmas": sigmas}
        fine |= {"epsilon_scaling": None, "time_shift": None}

        def work(recipe: Recipe) -> Measured:
            latent, norms, denoise = self._run(recipe.model_copy(update=fine))
            found = {"latent": latent, "norms": norms[::-1]}
            if paths:
                generator = np.random.default_rng([recipe.seed, 2])  # not the noise that the latent was made of
                draw = generator.standard_normal
                found["disagreements"] = align.disagreement(denoise, latent, self.levels, lambda: draw(latent.shape))
            return found

        return self._each("converged pictures", "converged", work)

    def runs(self, label: str, latents: Array, **changes: Any) -> Measured:
        """Of the recipe with changes: relative distances [pictures] to latents, and norms of eps [pictures, n]."""
        targets = {recipe.seed: latent for recipe, latent in zip(self._recipes, latents, strict=True)}

        def work(recipe: Recipe) -> Measured:
            latent, norms, _ = self._run(recipe.model_copy(update=changes))
            target = targets[recipe.seed]
            return {"distance": np.sqrt(np.mean((latent - target) ** 2) / np.mean(target**2)), "norms": norms}

        changed = self.recipe.model_copy(update=changes).model_dump_json()
        return self._each(label, hashlib.sha256(changed.encode()).hexdigest()[:16], work)

    def distance(self, label: str, latents: Array, **changes: Any) -> float:
        """The geometric mean of those distances, which a few pictures that turn out quite another do not decide."""
        return typical(self.runs(label, latents, **changes)["distance"])

    def _run(self, recipe: Recipe) -> tuple[Array, Array, Denoiser]:
        """The latent, the norms of eps at the sigmas, and the denoiser that was used."""
        denoisers: list[Denoiser] = []
        norms: dict[float, float] = {}

        def watch(denoise: Denoiser) -> Denoiser:
            def watched(x: Array, sigma: float) -> Denoised:
                denoised = denoise(x, sigma)
                norms.setdefault(sigma, float(np.linalg.norm(denoised.eps)))
                return denoised

            denoisers.append(denoise)
            return watched

        conditioning = pipeline.encode(self._engine, recipe, self._ticket)
        rest = self._ticket, pipeline.Stopwatch(), [watch]
        latent = pipeline.develop(self._engine, recipe, self.model, conditioning, *rest)
        if not np.all(np.isfinite(latent)):
            raise EngineFailure(f"the networks of {self.model.name} gave numbers that are not finite")
        return latent, np.array([norms[sigma] for sigma in recipe.sigmas[:-1]]), denoisers[0]

    def _each(self, label: str, key: str, work: Callable[[Recipe], Measured]) -> Measured:
        """The work on every picture, stacked; what has been kept under the key is not done again."""
        names = {f"{key}/{i}": recipe for i, recipe in enumerate(self._recipes)}
        if missing := [name for name in names if name not in self._state]:
            with (
                click.progressbar(length=len(names), label=label.ljust(32), file=sys.stderr) as bar,
                ThreadPoolExecutor(WORKERS) as pool,
            ):
                bar.update(len(names) - len(missing))
                try:
                    running = {pool.submit(work, names[name]): name for name in missing}
                    for done in as_completed(running):
                        self._state[running[done]] = done.result()
                        bar.update(1)
                except BaseException:  # Ctrl-C too: what runs ends at its next network call
                    self._ticket.cancelled.set()
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
                finally:
                    self._state.save()
        each = [self._state[name] for name in names]
        return {part: np.stack([measured[part] for measured in each]) for part in each[0]}


def typical(distances: Array) -> float:
    """The geometric mean."""
    return float(np.exp(np.log(np.maximum(distances, 1e-12)).mean()))
