"""What work costs in seconds of the engine: learned from its own network calls, kept across restarts."""

import json
import logging
import math
import threading
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import NamedTuple, Self

from service.diffusion.explain import Evaluation
from service.engines.contract import ModelDescription
from service.engines.dispatch import Called, Silent
from service.enlargement import Enlargement, final, work
from service.recipe import Recipe
from service.settings import Settings

log = logging.getLogger(__name__)

INERTIA = 32  # calls after which the mean forgets
SAVE_EVERY = 30.0  # seconds
PIXELS = 6e6  # a second of one core: rows by Lanczos' kernel and their PNG (python -m benchmarks.upscaling)
FOREIGN = 10_000  # entries beyond which the file is not ours

Key = tuple[str, str, int, int, int]  # digest of the model, network, latent height and width, rows


class Price(NamedTuple):
    """Seconds of the engine for one picture."""

    text: float
    evaluations: tuple[float, ...]  # one for each network call of the sampler
    decode: float
    upscale: float = 0.0

    def left(self, done: int) -> float:
        """Seconds still to come after so many evaluations."""
        return sum(self.evaluations[done:]) + self.decode + (0.0 if done else self.text) + self.upscale


class Costs(Silent):
    """Mean seconds of a call by model, network, size and rows; what was not seen yet is scaled from what was."""

    @classmethod
    def kept(cls, settings: Settings) -> Self:
        """Those of an engine, in its file in the cache folder."""
        return cls(settings.cache_dir / f"costs-{settings.engine}-{settings.precision}.json")

    def __init__(self, file: Path | None = None) -> None:
        self._file, self._saved = file, monotonic()
        self._lock = threading.Lock()
        self._means: dict[Key, tuple[float, int]] = _read(file) if file else {}

    def called(self, call: Called) -> None:
        """Learn from a network call, as the dispatch gate reports it."""
        key = (call.model.digest, call.network, *call.size, call.rows)
        with self._lock:
            mean, seen = self._means.get(key, (0.0, 0))
            seen = min(seen + 1, INERTIA)
            self._means[key] = (mean + (call.took - mean) / seen, seen)
            due = self._file is not None and monotonic() - self._saved > SAVE_EVERY
        if due:
            self.save()

    def expected(self, model: ModelDescription, network: str, size: tuple[int, int], rows: int) -> float | None:
        """Seconds of a call; None while nothing is known of this network."""
        wanted = (model.digest, network, *size, rows)
        with self._lock:
            if wanted in self._means:
                return self._means[wanted][0]
            alike = {key: mean for key, (mean, _) in self._means.items() if key[:2] == wanted[:2]}
        if not alike:
            return None
        nearest = min(alike, key=lambda key: abs(math.log(_work(key) / _work(wanted))))
        return alike[nearest] * _work(wanted) / _work(nearest)

    def price(
        self, recipe: Recipe | Enlargement, model: ModelDescription, evaluations: Sequence[Evaluation]
    ) -> Price | None:
        """What a picture of this recipe will cost; None while one of its networks has never run."""
        upscale = self._upscale(recipe, model)
        if not evaluations:
            return None if upscale is None else Price(0.0, (), 0.0, upscale)
        size = recipe.height // model.latent.factor, recipe.width // model.latent.factor
        calls = [(call.network, len(call.rows)) for call in evaluations]
        branches = max(rows for _, rows in calls)
        text, decode = self.expected(model, "text_encoder", (0, 0), 1), self.expected(model, "vae_decoder", size, 1)
        seconds = {(network, rows): self.expected(model, network, size, rows) for network, rows in set(calls)}
        known = {call: value for call, value in seconds.items() if value is not None}
        if text is None or decode is None or upscale is None or len(known) < len(seconds):
            return None
        return Price(text * branches, tuple(known[call] for call in calls), decode, upscale)

    def _upscale(self, recipe: Recipe | Enlargement, model: ModelDescription) -> float | None:
        """Seconds to enlarge a picture and to write its file; None while the upsampler has never run."""
        if recipe.upscale is None:
            return 0.0
        width, height = final(recipe)
        total, side = width * height / PIXELS, model.upsampler.block if model.upsampler else 0
        for rows, calls in work(recipe, model).calls.items():
            seconds = self.expected(model, "upsampler", (side, side), rows)
            if seconds is None:
                return None
            total += seconds * calls
        return total

    def save(self) -> None:
        """Write the file beside its place, then rename. A disk that refuses is no reason to stop serving."""
        if self._file is None:
            return
        with self._lock:
            self._saved = monotonic()
            rows = [[*key, *value] for key, value in self._means.items()]
        partial = self._file.with_suffix(".partial")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(json.dumps(rows))
            partial.replace(self._file)
        except OSError as error:
            log.warning("the costs are not kept: %s", error)


def _work(key: Key) -> float:
    """Rows times area: what the time of a call grows with."""
    return float(key[4] * max(key[2] * key[3], 1))


def _read(file: Path) -> dict[Key, tuple[float, int]]:
    """The entries of a file of ``save``; none of them if it is not one."""
    try:
        rows = json.loads(file.read_text())
        entries = {(str(d), str(n), int(h), int(w), int(r)): (float(s), int(k)) for d, n, h, w, r, s, k in rows}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, RecursionError) as error:
        log.warning("the costs in %s cannot be read and are learned anew: %s", file, error)
        return {}
    sane = len(entries) <= FOREIGN and all(0 < s < math.inf and k > 0 for s, k in entries.values())
    return entries if sane else {}
