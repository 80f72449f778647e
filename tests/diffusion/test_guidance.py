"""Guidance, corrections and the order in which they are folded."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.diffusion.compose import compose
from service.diffusion.corrections import epsilon_scaling
from service.diffusion.guidance import cfg
from service.diffusion.parameterization import Parameterization
from service.diffusion.samplers import SAMPLERS
from service.diffusion.types import Array, Branches, Denoised, Denoiser
from tests.diffusion.oracle import alphas_cumprod, ours

PARAMETERIZATION = ours("v", "scaled_linear")[0]
X = np.random.default_rng(0).standard_normal((2, 3, 4))
SIGMAS = np.array([10.0, 5.0, 2.0, 1.0, 0.0])


def branches_of(calls: list[tuple[str, ...]]) -> Branches:
    """Two different networks, one per branch, that count their calls."""

    def branches(x: Array, sigma: float, names: Sequence[str]) -> list[Denoised]:
        calls.append(tuple(names))
        x0 = {"cond": np.tanh(x), "uncond": 0.3 * x - 0.1}
        return [Denoised(x0[name], (x - x0[name]) / sigma) for name in names]

    return branches


@given(st.floats(0.1, 20), st.floats(0.05, 50))
def test_cfg_extrapolates_from_uncond_to_cond(scale: float, sigma: float) -> None:
    x0, eps = cfg(scale, None, PARAMETERIZATION)(branches_of([]))(X, sigma)
    expected = (0.3 * X - 0.1) * (1 - scale) + scale * np.tanh(X)
    np.testing.assert_allclose(x0, expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(eps, (X - expected) / sigma, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(
    ("sigma", "guided"), [(0.28, False), (0.280001, True), (1.0, True), (5.42, True), (5.420001, False)]
)
def test_the_interval_is_open_below_and_closed_above_and_saves_rows(sigma: float, guided: bool) -> None:
    calls: list[tuple[str, ...]] = []
    x0 = cfg(3.0, (0.28, 5.42), PARAMETERIZATION)(branches_of(calls))(X, sigma).x0
    assert calls == [("uncond", "cond") if guided else ("cond",)]
    np.testing.assert_allclose(x0, cfg(3.0 if guided else 1.0, None, PARAMETERIZATION)(branches_of([]))(X, sigma).x0)


def test_scale_1_computes_the_conditional_row_only() -> None:
    calls: list[tuple[str, ...]] = []
    np.testing.assert_array_equal(cfg(1.0, None, PARAMETERIZATION)(branches_of(calls))(X, 2.0).x0, np.tanh(X))
    assert calls == [("cond",)]


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_cfg_of_estimates_is_cfg_of_network_outputs(prediction: str) -> None:
    """Guidance in x0 equals guidance on the raw prediction, as diffusers' pipelines do it."""
    parameterization = Parameterization("vp", prediction, alphas_cumprod("scaled_linear").tolist())  # type: ignore[arg-type]
    outputs = {"uncond": np.sin(X), "cond": np.cos(X)}

    def network(_x: Array, _timestep: Array, names: Sequence[str]) -> Array:
        return np.stack([outputs[name] for name in names])

    mine = cfg(7.5, None, parameterization)(parameterization.branches(network))(X, 1.3)
    combined = outputs["uncond"] + 7.5 * (outputs["cond"] - outputs["uncond"])
    theirs = parameterization.denoised(X, combined, 1.3)
    np.testing.assert_allclose(mine.x0, theirs.x0, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(mine.eps, theirs.eps, rtol=1e-12, atol=1e-12)


def denoise(x: Array, sigma: float) -> Denoised:
    x0 = np.tanh(x)
    return Denoised(x0, (x - x0) / sigma)


def test_uniform_epsilon_scaling_divides_eps_and_moves_x0_along() -> None:
    x0, eps = epsilon_scaling(SIGMAS, 1.02)(denoise)(X, 2.0)
    np.testing.assert_allclose(eps, denoise(X, 2.0).eps / 1.02)
    np.testing.assert_allclose(x0, X - 2.0 * denoise(X, 2.0).eps / 1.02)


@pytest.mark.parametrize(("sigma", "index"), [(10.0, 3.0), (5.0, 2.0), (2.0, 1.0), (1.0, 0.0), (np.sqrt(10.0), 1.5)])
def test_linear_epsilon_scaling_is_strongest_at_high_noise(sigma: float, index: float) -> None:
    eps = epsilon_scaling(SIGMAS, 1.003, 0.0008)(denoise)(X, sigma).eps
    np.testing.assert_allclose(eps, denoise(X, sigma).eps / (1.003 + 0.0008 * index), rtol=1e-12)


def test_epsilon_scaling_leaves_the_singular_first_step_alone() -> None:
    sigmas = np.array([4096.0, 15.0, 0.0])
    np.testing.assert_array_equal(epsilon_scaling(sigmas, 1.02)(denoise)(X, 4096.0).x0, np.tanh(X))
    assert not np.allclose(epsilon_scaling(sigmas, 1.02)(denoise)(X, 15.0).x0, np.tanh(X))


def test_epsilon_scaling_in_heun_is_the_reference_loop() -> None:
    """The published EDM loop divides at both evaluations; one wrapper serves both (here written out by hand)."""
    x, factor = X, 1.004
    for sigma, sigma_next in pairwise(SIGMAS):
        slope = (x - np.tanh(x)) / sigma / factor
        x_next = x + (sigma_next - sigma) * slope
        if sigma_next > 0:
            slope_next = (x_next - np.tanh(x_next)) / sigma_next / factor
            x_next = x + (sigma_next - sigma) * (slope + slope_next) / 2
        x = x_next
    mine = SAMPLERS["heun"](epsilon_scaling(SIGMAS, factor)(denoise), X, SIGMAS, None)
    np.testing.assert_allclose(mine, x, rtol=1e-12)


def test_history_holds_the_corrected_estimate() -> None:
    """A multistep sampler on a corrected denoiser is that sampler on the corrected function, history and all."""

    def by_hand(x: Array, sigma: float) -> Denoised:
        eps = (x - np.tanh(x)) / sigma / 1.01
        return Denoised(x - sigma * eps, eps)

    wrapped = SAMPLERS["dpmpp_2m"](epsilon_scaling(SIGMAS, 1.01)(denoise), X, SIGMAS, None)
    np.testing.assert_allclose(wrapped, SAMPLERS["dpmpp_2m"](by_hand, X, SIGMAS, None), rtol=1e-12)


def test_the_fold_is_guidance_then_corrections_then_watch() -> None:
    """Guidance innermost, the first correction next, watch outermost: swapping any two changes the number."""

    def affine(factor: float, offset: float) -> object:
        def wrap(inner: Denoiser) -> Denoiser:
            return lambda x, sigma: Denoised(inner(x, sigma).x0 * factor + offset, inner(x, sigma).eps)

        return wrap

    wrappers = [affine(2.0, 1.0), affine(3.0, 5.0), affine(7.0, 11.0)]
    denoiser = compose(branches_of([]), cfg(4.0, None, PARAMETERIZATION), wrappers[:2], wrappers[2])  # type: ignore[arg-type]
    guided = cfg(4.0, None, PARAMETERIZATION)(branches_of([]))(X, 2.0).x0
    np.testing.assert_allclose(denoiser(X, 2.0).x0, ((guided * 2 + 1) * 3 + 5) * 7 + 11)


def test_linear_guidance_and_scaling_commute_but_scaling_one_branch_does_not() -> None:
    scale = epsilon_scaling(SIGMAS, 1.02)
    after = compose(branches_of([]), cfg(3.0, None, PARAMETERIZATION), [scale])(X, 2.0).x0
    uncond, cond = (scale(lambda x, s, n=n: branches_of([])(x, s, (n,))[0])(X, 2.0).x0 for n in ("uncond", "cond"))
    np.testing.assert_allclose(after, uncond + 3 * (cond - uncond), rtol=1e-12)
    assert not np.allclose(after, (0.3 * X - 0.1) + 3 * (cond - (0.3 * X - 0.1)))
