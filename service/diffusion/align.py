"""Align Your Steps: a schedule by descent on the KLUB (Sabour et al. 2024, sec. 3 and app. B).

The paper estimates the KLUB of every candidate anew. Here a denoiser is asked once per level of a fine grid along
forward paths x_u = x_t + sqrt(u^2 - t^2) n. Those have the joint law of any two levels, so their disagreements hold
the KLUB of every schedule on the grid: the search costs no network call, and all candidates see the same noise.

Schedules here are places on the ascending grid, the first and the last included; refinement halves every step.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from service.diffusion.types import Array, Denoiser

REACH = 5  # places to either side that one visit to a level looks at: 11 candidates, the level itself among them
PATIENCE = 2  # sweeps in turn without a gain that end a descent
Places = tuple[int, ...]


def disagreement(denoise: Denoiser, clean: Array, levels: Array, draw: Callable[[], Array]) -> Array:
    """Mean squares |D(x_t, t) - D(x_u, u)|^2 [K, K] between ascending levels [K] on one path that starts in ``clean``.

    ``draw`` gives unit noise. The denoiser sees the noisiest level first, as in sampling.
    """
    steps = np.sqrt(np.diff(np.square(levels), prepend=0.0))
    path = clean + np.cumsum([step * draw() for step in steps], axis=0)
    found = [(denoise(x, float(level)).x0 - clean).ravel() for x, level in zip(path[::-1], levels[::-1], strict=True)]
    residuals = np.array(found[::-1])
    products = residuals @ residuals.T / clean.size
    squares = np.diag(products)
    return np.maximum(squares[:, None] + squares - 2 * products, 0.0)


def costs(levels: Array, disagreements: Array) -> Array:
    """KLUB [K, K] of one step from level u (column) down to level t (row): int_t^u s^-3 |D(x_s) - D(x_u)|^2 ds.

    By the trapezoidal rule in log s; what is not a step down is meaningless.
    """
    integrand = disagreements / np.square(levels)[:, None]
    pieces = (integrand[1:] + integrand[:-1]) / 2 * np.diff(np.log(levels))[:, None]
    below = np.vstack([np.zeros(len(levels)), np.cumsum(pieces, axis=0)])  # from the first level up to each
    return np.asarray(np.diag(below) - below)


def klub(cost: Array, places: Sequence[int]) -> float:
    """KLUB of a schedule."""
    return float(cost[places[:-1], places[1:]].sum())


def nearest(levels: Array, sigmas: Array, gap: int) -> Places:
    """The places nearest to decreasing sigmas that end in 0: ends on the ends, at least ``gap`` apart."""
    last, steps = len(levels) - 1, len(sigmas) - 1
    if steps * gap > last:
        raise ValueError(f"{steps} steps {gap} places apart need more than {last + 1} levels")
    logs = np.log(np.maximum(sigmas[::-1], levels[0]))
    wanted = np.abs(np.log(levels) - logs[:, None]).argmin(axis=1)
    order = gap * np.arange(steps + 1)
    rising = np.maximum.accumulate(np.maximum(wanted - order, 0))
    return (*(np.minimum(rising, last - steps * gap) + order).tolist()[:-1], last)


def sweep(cost: Array, places: Places, gap: int) -> Places:
    """One round of coordinate descent: every inner level in turn to the best of its 11 candidates."""
    found = list(places)
    for i in range(1, len(found) - 1):
        low, here, high = found[i - 1 : i + 2]
        near = range(max(low + gap, here - REACH), min(high - gap, here + REACH) + 1)
        found[i] = min((here, *near), key=lambda place: cost[low, place] + cost[place, high])
    return tuple(found)


def refined(cost: Array, places: Places, gap: int) -> Places:
    """Twice the steps: the old levels, 2 gaps apart, stay; a new one goes to the best place between each two."""
    found = [places[0]]
    for low, high in pairwise(places):
        between = range(low + gap, high - gap + 1)
        found += [min(between, key=lambda place: cost[low, place] + cost[place, high]), high]
    return tuple(found)


def descend(cost: Array, places: Places, gap: int, judge: Callable[[Places], float]) -> tuple[float, Places]:
    """Sweeps until nothing moves, or until two in turn do not lower what ``judge`` says of the pictures.

    The early stop is needed: the KLUB bounds the divergence of paths, and its minimum spends the steps on noise that
    nobody sees. The best places seen are returned, with what ``judge`` said of them.
    """
    best, idle = (judge(places), places), 0
    while idle < PATIENCE and (following := sweep(cost, places, gap)) != places:
        places = following
        distance = judge(places)
        idle = 0 if distance < best[0] else idle + 1
        best = min(best, (distance, places), key=lambda found: found[0])
    return best
