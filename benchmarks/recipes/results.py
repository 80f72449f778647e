"""What the pictures say: per method and number of calls, every measure as one number per prompt."""

from collections.abc import Iterable

import numpy as np

from benchmarks.recipes.measure import COPIES, Bench, Row
from benchmarks.recipes.methods import CONVERGED, STEPS, Method, key, solves
from service.recipe import Recipe
from training.evaluate import RENDERS
from training.measures import Array, Estimate, Renders, estimate

TITLES = {
    "error": "error",
    "frechet": "Fréchet distance",
    "precision": "precision",
    "recall": "recall",
    "accuracy": "accuracy",
    "kind": "object kind",
    "diversity": "diversity",
    "seconds": "seconds",
}


class Results:
    """The prompts that are finished for all methods."""

    def __init__(self, bench: Bench, methods: Iterable[Method], prompts: int) -> None:
        self.methods = {method.name: method for method in methods}
        wanted = {key(recipe) for method in self.methods.values() for recipe in method.recipes.values()} | {RENDERS}
        known = [bench.load(number) for number in range(prompts)]
        finished = [rows for rows in known if wanted <= rows.keys()]
        self.prompts = len(finished)
        self._rows: dict[str, Row] = {name: np.stack([rows[name] for rows in finished]) for name in wanted if finished}
        self._values: dict[str, dict[str, Array]] = {}
        if finished:
            self._renders = Renders(self._rows[RENDERS]["features"][:, COPIES:])
            self.kept = self._renders.kept

    def values(self, name: str, calls: int = 0) -> dict[str, Array]:
        """Measures [prompts] of a method, or of renders beside other renders; NaN where one has no meaning."""
        recipe = self.methods[name].recipes[calls] if name != RENDERS else None
        digest = key(recipe) if recipe else RENDERS
        if digest not in self._values:
            rows = self._rows[digest][:, :COPIES]
            judged = {measure: rows[measure].mean(1) for measure in ("accuracy", "kind", "seconds")}
            found = judged | self._renders.measure(rows["features"]) | {"error": self._error(recipe, rows)}
            self._values[digest] = {measure: found[measure] for measure in TITLES}
        return self._values[digest]

    def _error(self, recipe: Recipe | None, rows: Row) -> Array:
        """Relative distance of the latent to that of the converged trajectory from the same noise."""
        converged = self.methods[CONVERGED].recipes[STEPS]
        if recipe is None or recipe == converged or not solves(recipe, converged):
            return np.full(self.prompts, np.nan)
        exact = self._rows[key(converged)]["latent"].astype(float)
        latents = tuple(range(2, exact.ndim))
        distances = ((rows["latent"] - exact) ** 2).mean(latents) / (exact**2).mean(latents)
        return np.asarray(np.sqrt(distances).mean(1))

    def estimates(self, name: str, calls: int = 0) -> dict[str, Estimate]:
        return {measure: known(values) for measure, values in self.values(name, calls).items()}

    def difference(self, name: str, against: str, calls: int, measure: str) -> Estimate:
        """Paired by prompt: the first one minus the second."""
        return known(self.values(name, calls)[measure] - self.values(against, calls)[measure])


def known(values: Array) -> Estimate:
    """The estimate over the prompts that have a value; NaN when none has."""
    there = values[~np.isnan(values)]
    return estimate(there) if len(there) else Estimate(np.nan, np.nan, np.nan)
