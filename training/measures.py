"""Sets of pictures, as feature vectors, beside renders of the same prompts: realism, diversity, and their intervals.

A set is an array [prompts, copies, features]. Every measure is one number per prompt, so that means, intervals and
paired differences are made alike, and all pictures of a prompt count as one observation.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist, pdist
from scipy.stats import bootstrap

Array = NDArray[Any]
AXES = 32  # principal axes in which Frechet distances and neighbours are computed
NEIGHBOURS = 3  # of the manifolds behind precision and recall, as in their paper


@dataclass(frozen=True)
class Estimate:
    """A mean over prompts with its 95 % interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def estimate(values: Array) -> Estimate:
    """The mean of one number per prompt with its percentile bootstrap interval, prompts resampled (Efron 1979)."""
    interval = bootstrap((values,), np.mean, n_resamples=4000, method="percentile", rng=0).confidence_interval
    return Estimate(float(np.mean(values)), float(interval.low), float(interval.high))


class Renders:
    """Features of renders [prompts, copies, features], which sets of pictures of the same prompts are held against."""

    def __init__(self, features: Array) -> None:
        flat = features.reshape(-1, features.shape[-1])
        self._axes = principal_axes(flat, AXES)
        self._real = features @ self._axes
        self._diversity = diversity(features).mean()
        self.kept = float((flat @ self._axes).var(0).sum() / flat.var(0).sum())  # share of the variance

    def measure(self, features: Array) -> dict[str, Array]:
        """Frechet distance, precision, recall and diversity (1 for renders) of [prompts, copies, features]."""
        made, real = features @ self._axes, self._real
        flat_made, flat_real = (part.reshape(-1, part.shape[-1]) for part in (made, real))
        return {
            "frechet": pseudo_values(frechet, made, real),
            "precision": covered(flat_made, flat_real).reshape(made.shape[:2]).mean(1),
            "recall": covered(flat_real, flat_made).reshape(real.shape[:2]).mean(1),
            "diversity": diversity(features) / self._diversity,
        }


def principal_axes(points: Array, count: int) -> Array:
    """The orthonormal axes of most variance of (n, d), as columns (d, count)."""
    _, vectors = np.linalg.eigh(np.cov(points, rowvar=False))
    return np.asarray(vectors[:, ::-1][:, :count])


def frechet(a: Array, b: Array) -> float:
    """Squared Frechet distance between Gaussians fitted to (n, d) and (m, d) (Heusel et al. 2017, eq. 6)."""
    return gaussian_frechet(a.mean(0), np.cov(a, rowvar=False), b.mean(0), np.cov(b, rowvar=False))


def gaussian_frechet(mean_a: Array, covariance_a: Array, mean_b: Array, covariance_b: Array) -> float:
    """|m_a - m_b|^2 + tr(A + B - 2 (A B)^(1/2)) (Dowson & Landau 1982)."""
    values, vectors = np.linalg.eigh(covariance_a)
    root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    cross = np.linalg.eigvalsh(root @ covariance_b @ root)  # the eigenvalues of A B
    shift = float(((mean_a - mean_b) ** 2).sum())
    return shift + float(np.trace(covariance_a + covariance_b) - 2 * np.sqrt(np.maximum(cross, 0)).sum())


def pseudo_values(statistic: Callable[..., float], *sets: Array) -> Array:
    """The jackknife's pseudo-value of every prompt (Tukey 1958) for a statistic of sets [prompts, copies, d].

    Their mean is the statistic without its bias of order 1/n, which is what a Frechet distance of finite samples
    suffers from (Chong & Forsyth 2020). Resampling with replacement would add to that bias instead.
    """

    def at(keep: Array) -> float:
        return statistic(*(part[keep].reshape(-1, part.shape[-1]) for part in sets))

    prompts = np.arange(len(sets[0]))
    whole = at(prompts)
    return np.array([len(prompts) * whole - (len(prompts) - 1) * at(np.delete(prompts, i)) for i in prompts])


def covered(points: Array, manifold: Array, neighbours: int = NEIGHBOURS) -> NDArray[np.bool_]:
    """Which points lie within the distance of some manifold point to its k-th neighbour (Kynkäänniemi et al. 2019).

    The share of pictures covered by renders is their precision, the share of renders covered by pictures the recall.
    """
    radii = np.partition(cdist(manifold, manifold), neighbours, axis=1)[:, neighbours]  # the 0-th is the point itself
    return np.asarray((cdist(points, manifold) <= radii).any(1))


def diversity(features: Array) -> Array:
    """Mean distance between the pictures of one prompt, [prompts, copies, d] -> [prompts]."""
    return np.array([pdist(copies).mean() for copies in features])


def not_dominated(rows: Mapping[str, tuple[float, ...]]) -> list[str]:
    """The names that no other is as good as everywhere and better somewhere; more is better in every column."""

    def dominates(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
        return a != b and all(x >= y for x, y in zip(a, b, strict=True))

    return [name for name, row in rows.items() if not any(dominates(other, row) for other in rows.values())]
