"""Steps that name another network: where the sampler starts, and what is added to what it leaves."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest

from service.diffusion.guidance import Interval
from service.diffusion.networks import Networks, finish, start
from service.diffusion.parameterization import Network, Parameterization
from service.diffusion.samplers import SAMPLERS
from service.diffusion.schedules import SCHEDULES
from service.diffusion.types import Array, Denoised
from tests.diffusion.oracle import ours

P = ours("eps", "scaled_linear")[0]
SIGMAS = SCHEDULES["trailing"](P.noise_levels, 10)
FIRST = float(SIGMAS[0])
X = np.random.default_rng(0).standard_normal((4, 16, 16))
MEAN = np.full(X.shape, 2.5)  # all that pure noise says about a world of bright pictures
WORLD = Parameterization("vp", "eps", (1 / (1 + P.noise_levels**2)).tolist())


def only(role: str, network: Network) -> Networks:
    """A model that has no other network."""
    return {role: network}.__getitem__


@pytest.mark.parametrize(
    ("scale", "interval", "rows"),
    [(1.0, None, 1), (7.5, None, 2), (7.5, (0.1, 5.0), 1), (7.5, (0.1, 20.0), 2), (1.0, (0.1, 20.0), 1)],
)
def test_singdiffusion_starts_where_a_forward_process_would(scale: float, interval: Interval | None, rows: int) -> None:
    """Average brightness: sqrt(abar) F(x_1) + sqrt(1 - abar) x_1 with guidance divided by its scale."""
    calls: list[tuple[str, ...]] = []

    def initial(x: Array, timestep: Array, names: Sequence[str]) -> Array:
        calls.append(tuple(names))
        assert timestep.tolist() == [999.0] * len(names)
        np.testing.assert_array_equal(x, np.stack([X] * len(names)))
        return np.stack([MEAN if name == "cond" else 0 * MEAN for name in names])

    x = start("unet_initial", P, FIRST, scale, interval)(only("unet_initial", initial), X)
    alpha = 1 / np.hypot(1, FIRST)
    np.testing.assert_allclose(alpha * x, alpha * MEAN + FIRST * alpha * X, rtol=1e-12)  # u = 0: (w c) / w = c
    assert calls == [("uncond", "cond")[-rows:]]


def test_the_guided_start_extrapolates_and_is_divided_by_the_scale() -> None:
    def initial(_x: Array, _timestep: Array, names: Sequence[str]) -> Array:
        return np.stack([MEAN if name == "cond" else 0.4 * MEAN for name in names])

    x = start("unet_initial", P, FIRST, 3.0, None)(only("unet_initial", initial), X)
    np.testing.assert_allclose(x, (0.4 + 3 * (1 - 0.4)) / 3 * MEAN + FIRST * X, rtol=1e-12)


def test_without_further_networks_nothing_is_asked() -> None:
    np.testing.assert_array_equal(start(None, P, FIRST, 7.5, None)({}.__getitem__, X), P.initial(X, FIRST))
    assert finish(None)({}.__getitem__, X) is X


def perfect(x: Array, timestep: Array, names: Sequence[str]) -> Array:
    """The exact network of a world in which every picture is MEAN (cond) or 0 (uncond)."""
    sigma = WORLD.timestep_to_sigma(float(timestep[0]))
    means = [MEAN if name == "cond" else 0 * MEAN for name in names]
    return np.stack([(row * np.hypot(1, sigma) - mean) / sigma for row, mean in zip(x, means, strict=True)])


def test_singdiffusion_removes_the_brightness_that_a_noise_network_cannot_know() -> None:
    """A network blind to the mean at T (it says eps = x) loses it for ever; the initial network brings it back."""

    def blind(x: Array, timestep: Array, names: Sequence[str]) -> Array:
        return x if timestep[0] == 999 else perfect(x, timestep, names)

    def initial(x: Array, _timestep: Array, _names: Sequence[str]) -> Array:
        return np.stack([MEAN] * len(x))

    def brightness(role: str | None) -> float:
        x = start(role, P, FIRST, 1.0, None)(only("unet_initial", initial), X)
        eps = WORLD.branches(blind)(x, FIRST, ("cond",))[0].eps
        return float(np.mean(x + (SIGMAS[1] - FIRST) * eps) - np.mean(SIGMAS[1] * X))

    assert abs(brightness(None)) < 0.2 < brightness("unet_initial")


def test_a_residual_network_repairs_what_a_sampler_leaves_behind() -> None:
    """Few Euler steps on a Gaussian shrink it by a factor that is known in closed form; R(x) = (1 / factor - 1) x."""
    sigmas, width = np.array([10.0, 2.0, 0.5, 0.0]), 0.7

    def gaussian(x: Array, sigma: float) -> Denoised:
        x0 = width**2 / (width**2 + sigma**2) * x
        return Denoised(x0, (x - x0) / sigma)

    begin = np.hypot(width, 10.0) * X
    factor = np.prod([1 + (b - a) / a * (1 - width**2 / (width**2 + a**2)) for a, b in pairwise(sigmas)])
    exact = begin * width / np.hypot(width, 10.0)
    rough = SAMPLERS["euler"](gaussian, begin, sigmas, None)
    assert not np.allclose(rough, exact, rtol=0.05)

    def network(x: Array, timestep: Array, names: Sequence[str]) -> Array:
        assert (timestep.tolist(), names) == ([0.0], ("cond",))
        return (width / np.hypot(width, 10.0) / factor - 1) * x

    np.testing.assert_allclose(finish("unet_residual")(only("unet_residual", network), rough), exact, rtol=1e-12)
