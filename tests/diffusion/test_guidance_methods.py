"""Rescaling, APG, CFG++ and CFG-Zero*: against diffusers' guiders and the papers' formulas."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer, normalized_guidance
from diffusers.guiders.classifier_free_zero_star_guidance import cfg_zero_star_scale
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg

from service.diffusion.guidance import GUIDANCE, apg, cfg, cfg_pp, cfg_zero
from service.diffusion.parameterization import Parameterization
from service.diffusion.samplers import SAMPLERS
from service.diffusion.types import Array, Branches, Denoised
from tests.diffusion.oracle import ours

X = np.random.default_rng(0).standard_normal((2, 3, 4))
V = ours("v", "scaled_linear")[0]
FLOW = Parameterization("flow", "flow")


def outputs(x: Array, names: Sequence[str]) -> Array:
    return np.stack([{"cond": np.tanh(x + 0.3), "uncond": 0.4 * x - 0.2}[name] for name in names])


def branches(parameterization: Parameterization, calls: list[tuple[str, ...]] | None = None) -> Branches:
    """Two different networks behind a parameterization."""

    def network(x: Array, _timestep: Array, names: Sequence[str]) -> Array:
        if calls is not None:
            calls.append(tuple(names))
        return np.stack([outputs(row, [name])[0] for row, name in zip(x, names, strict=True)])

    return parameterization.branches(network)


def batched(array: Array) -> torch.Tensor:
    return torch.from_numpy(array)[None]


@pytest.mark.parametrize("prediction", ["eps", "v", "x0"])
@pytest.mark.parametrize("rescale", [0.7, 1.0])
def test_rescale_is_diffusers(prediction: str, rescale: float) -> None:
    parameterization, sigma = ours(prediction, "scaled_linear")[0], 2.3
    uncond, cond = outputs(parameterization.input_scale(sigma) * X, ["uncond", "cond"])
    combined = uncond + 7.5 * (cond - uncond)
    expected = rescale_noise_cfg(batched(combined), batched(cond), guidance_rescale=rescale)[0].numpy()
    # torch.std is unbiased, numpy's is not: the ratio is the same
    mine = cfg(7.5, None, parameterization, rescale=rescale)(branches(parameterization))(X, sigma)
    theirs = parameterization.denoised(X, expected, sigma)
    np.testing.assert_allclose(mine.x0, theirs.x0, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(mine.eps, theirs.eps, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("norm_threshold", [0.0, 2.5])
@pytest.mark.parametrize("parallel", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("momentum", [0.0, -0.5])
def test_apg_is_diffusers_on_x0_over_several_steps(momentum: float, parallel: float, norm_threshold: float) -> None:
    denoise = apg(6.0, None, momentum=momentum, norm_threshold=norm_threshold, parallel=parallel)(branches(V))
    buffer = MomentumBuffer(momentum)
    for sigma in (9.0, 4.0, 1.0):
        uncond, cond = (branch.x0 for branch in branches(V)(X, sigma, ("uncond", "cond")))
        expected = normalized_guidance(
            batched(cond), batched(uncond), 5.0, buffer, parallel, norm_threshold, use_original_formulation=True
        )
        mine = denoise(X, sigma)
        np.testing.assert_allclose(mine.x0, expected[0].numpy(), rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(mine.eps, (X - mine.x0) / sigma)


def test_apg_without_projection_momentum_or_threshold_is_cfg() -> None:
    plain = apg(4.0, momentum=0.0, parallel=1.0)(branches(V))(X, 2.0).x0
    np.testing.assert_allclose(plain, cfg(4.0, None, V)(branches(V))(X, 2.0).x0, rtol=1e-10)


def test_apg_keeps_the_conditional_prediction_when_the_update_is_parallel_to_it() -> None:
    """The base-point trap: u + w * d_perp would lose the parallel part of c - u itself."""

    def parallel_branches(x: Array, sigma: float, names: Sequence[str]) -> list[Denoised]:
        return [Denoised(x * (0.5 if name == "cond" else 0.2), x / sigma) for name in names]

    np.testing.assert_allclose(apg(9.0, momentum=0.0)(parallel_branches)(X, 2.0).x0, 0.5 * X, rtol=1e-12)


def test_momentum_belongs_to_one_run() -> None:
    guidance = apg(6.0, momentum=-0.5)
    first, second = guidance(branches(V)), guidance(branches(V))
    first(X + 1, 5.0)
    np.testing.assert_array_equal(first(X, 2.0).x0 == second(X, 2.0).x0, np.zeros(X.shape, bool))
    np.testing.assert_array_equal(second(X, 2.0).x0, apg_twice(X))


def apg_twice(x: Array) -> Array:
    denoise = apg(6.0, momentum=-0.5)(branches(V))
    denoise(x, 2.0)
    return denoise(x, 2.0).x0


@pytest.mark.parametrize("scale", [0.2, 0.6, 1.0])
def test_cfg_pp_in_euler_is_the_paper(scale: float) -> None:
    """Chung et al. 2025, alg. 2, as ComfyUI's euler_cfg_pp writes it: denoised + d_uncond * sigma_next."""
    sigmas, x = np.array([14.0, 5.0, 1.0, 0.2, 0.0]), 14 * X
    for sigma, following in pairwise(sigmas):
        uncond, cond = branches(V)(x, sigma, ("uncond", "cond"))
        x = uncond.x0 + scale * (cond.x0 - uncond.x0) + (x / sigma - uncond.x0 / sigma) * following
    mine = SAMPLERS["euler"](cfg_pp(scale, None)(branches(V)), 14 * X, sigmas, None)
    np.testing.assert_allclose(mine, x, rtol=1e-10)


def test_cfg_zero_scales_the_unconditional_velocity_as_diffusers() -> None:
    sigmas = np.array([9999.0, 3.0, 1.0, 0.0])
    uncond, cond = outputs(FLOW.input_scale(3.0) * X, ["uncond", "cond"])
    alpha = float(cfg_zero_star_scale(batched(cond).flatten(1), batched(uncond).flatten(1)))
    velocity = alpha * uncond + 4.0 * (cond - alpha * uncond)
    mine = cfg_zero(4.0, None, FLOW, sigmas, zero_steps=1)(branches(FLOW))(X, 3.0)
    np.testing.assert_allclose(mine.x0, FLOW.denoised(X, velocity, 3.0).x0, rtol=1e-6)
    np.testing.assert_allclose(mine.eps, FLOW.denoised(X, velocity, 3.0).eps, rtol=1e-6)


@pytest.mark.parametrize("zero_steps", [0, 1, 2])
def test_cfg_zero_holds_x_still_in_its_first_steps_without_a_network_call(zero_steps: int) -> None:
    """In flow's own scale, x_t = x / (1 + sigma), the velocity of these steps is 0."""
    sigmas, calls, seen = np.array([9999.0, 3.0, 1.0, 0.0]), [], []
    denoise = cfg_zero(4.0, None, FLOW, sigmas, zero_steps=zero_steps)(branches(FLOW, calls))

    def watched(x: Array, sigma: float) -> Denoised:
        seen.append(x / (1 + sigma))
        return denoise(x, sigma)

    SAMPLERS["euler"](watched, FLOW.initial(X, sigmas[0]), sigmas, None)
    assert calls == [("uncond", "cond")] * (3 - zero_steps)
    for x in seen[: zero_steps + 1]:
        np.testing.assert_allclose(x, X, rtol=1e-9)
    if zero_steps < 2:
        assert not np.allclose(seen[zero_steps + 1], X)


@pytest.mark.parametrize("name", GUIDANCE)
def test_every_method_is_off_outside_the_interval_and_saves_the_row(name: str) -> None:
    calls: list[tuple[str, ...]] = []
    facts = {"cfg": (FLOW,), "cfg_zero": (FLOW, np.array([9.0, 5.0, 0.0]))}.get(name, ())
    denoise = GUIDANCE[name](0.5, (1.0, 3.0), *facts)(branches(FLOW, calls))
    for sigma in (1.0, 3.0, 3.1):
        denoise(X, sigma)
    assert calls == [("cond",), ("uncond", "cond"), ("cond",)]


@pytest.mark.parametrize("name", ["cfg", "apg", "cfg_zero"])
def test_scale_1_needs_no_unconditional_row(name: str) -> None:
    calls: list[tuple[str, ...]] = []
    facts = {"cfg": (FLOW,), "cfg_zero": (FLOW, np.array([9.0, 5.0, 0.0]))}.get(name, ())
    mine = GUIDANCE[name](1.0, None, *facts)(branches(FLOW, calls))(X, 2.0)
    assert calls == [("cond",)]
    np.testing.assert_array_equal(mine.x0, branches(FLOW)(X, 2.0, ("cond",))[0].x0)
