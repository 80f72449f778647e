"""The clock, the input scale and the four predictions."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from service.diffusion.parameterization import Parameterization
from service.diffusion.types import Array
from tests.diffusion.oracle import BETAS, PREDICTIONS, alphas_cumprod, network, ours, scheduler

X0, EPS = np.random.default_rng(0).standard_normal((2, 2, 3, 4))
FLOW = Parameterization("flow", "flow", shift=3.0)


def vp(prediction: Any = "eps", betas: str = "scaled_linear") -> Parameterization:
    return Parameterization("vp", prediction, alphas_cumprod(betas).tolist())


@pytest.mark.parametrize("betas", BETAS)
def test_noise_levels_are_diffusers(betas: str) -> None:
    with scheduler("EulerDiscreteScheduler", **BETAS[betas]) as oracle:
        np.testing.assert_allclose(vp("v", betas).noise_levels, oracle.sigmas.numpy()[-2::-1], rtol=1e-13)


@pytest.mark.parametrize("betas", BETAS)
def test_the_clock_is_an_integer_at_trained_levels_and_diffusers_in_between(betas: str) -> None:
    parameterization = vp("v", betas)
    levels = parameterization.noise_levels
    assert [parameterization.sigma_to_timestep(sigma) for sigma in levels] == list(range(1000))
    between = np.sqrt(levels[1:] * levels[:-1])
    with scheduler("EulerDiscreteScheduler", **BETAS[betas]) as oracle:
        theirs = [float(oracle._sigma_to_t(np.array(sigma), np.log(levels))) for sigma in between]
    np.testing.assert_allclose([parameterization.sigma_to_timestep(sigma) for sigma in between], theirs, rtol=1e-9)


@given(st.floats(0, 999))
def test_timestep_to_sigma_inverts_the_clock(timestep: float) -> None:
    for parameterization in (vp(), FLOW):
        sigma = parameterization.timestep_to_sigma(max(timestep, 1e-3))
        assert parameterization.sigma_to_timestep(sigma) == pytest.approx(max(timestep, 1e-3), rel=1e-9, abs=1e-9)


def test_the_clock_is_clipped_to_the_trained_range() -> None:
    parameterization = vp()
    assert parameterization.sigma_to_timestep(1e-9) == 0
    assert parameterization.sigma_to_timestep(1e9) == 999


def true_output(prediction: str, sigma: float) -> Array:
    """What a perfect network would say, from the definitions of the papers."""
    alpha, noise = 1 / np.sqrt(1 + sigma**2), sigma / np.sqrt(1 + sigma**2)
    return {"eps": EPS, "x0": X0, "v": alpha * EPS - noise * X0, "flow": EPS - X0}[prediction]


@pytest.mark.parametrize("prediction", ["eps", "v", "x0", "flow"])
@given(sigma=st.floats(0.01, 4000))
def test_a_perfect_network_gives_back_x0_and_eps(prediction: str, sigma: float) -> None:
    parameterization = FLOW if prediction == "flow" else vp(prediction)
    denoised = parameterization.denoised(X0 + sigma * EPS, true_output(prediction, sigma), sigma)
    np.testing.assert_allclose(denoised.x0, X0, atol=1e-12 * (1 + sigma) / min(sigma, 1))
    np.testing.assert_allclose(denoised.eps, EPS, atol=1e-11 / min(sigma, 1))


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("betas", ["scaled_linear", "squaredcos"])
def test_x0_is_diffusers_with_its_own_sigmas_and_clock(prediction: str, betas: str) -> None:
    denoise = ours(prediction, betas)[1]
    config = BETAS[betas] | {"prediction_type": PREDICTIONS[prediction]}
    with scheduler("EulerDiscreteScheduler", **config) as oracle:
        oracle.set_timesteps(10)  # integer timesteps 999, 888, ...
        sample = torch.from_numpy(X0 + oracle.sigmas.numpy()[0] * EPS)
        for timestep, sigma in zip(oracle.timesteps, oracle.sigmas.numpy(), strict=False):
            output = network(oracle.scale_model_input(sample, timestep).numpy(), float(timestep))
            mine = denoise(sample.numpy(), float(sigma))
            step = oracle.step(torch.from_numpy(output), timestep, sample)
            np.testing.assert_allclose(mine.x0, step.pred_original_sample, rtol=1e-10, atol=1e-10 * float(sigma))
            sample = step.prev_sample


def test_flow_equals_diffusers_flow_matching_up_to_the_clip() -> None:
    def velocity(x: Array, timestep: float) -> Array:
        return np.tanh(x + timestep / 1000)

    def rows(x: Array, timestep: Array, _names: Sequence[str]) -> Array:
        clocks.append(float(timestep[0]))
        return velocity(x, timestep[0])

    clocks: list[float] = []
    branches = FLOW.branches(rows)
    with scheduler("FlowMatchEulerDiscreteScheduler", shift=3.0) as oracle:
        oracle.set_timesteps(sigmas=np.linspace(1, 0.1, 10))
        sample, x = torch.from_numpy(EPS), FLOW.initial(EPS, FLOW.noise_levels[-1])
        sigmas = [*np.minimum(oracle.sigmas.numpy()[:-1], 1 - 1e-4), 0.0]
        for i, timestep in enumerate(oracle.timesteps):
            sigma, following = (s / (1 - s) for s in sigmas[i : i + 2])
            (denoised,) = branches(x, sigma, ("cond",))
            x = denoised.x0 + following * denoised.eps
            sample = oracle.step(
                torch.from_numpy(velocity(sample.numpy(), float(timestep))), timestep, sample
            ).prev_sample
            np.testing.assert_allclose(x / (1 + following), sample, atol=2e-4)
        np.testing.assert_allclose(clocks, oracle.timesteps, rtol=1e-12)
    assert clocks[0] == 1000


def test_flow_levels_are_the_shifted_timesteps() -> None:
    with scheduler("FlowMatchEulerDiscreteScheduler", shift=3.0) as oracle:
        t = oracle.sigmas.numpy()[::-1]
    np.testing.assert_allclose(FLOW.noise_levels[:-1], (t / (1 - t))[:-1] if t[-1] < 1 else t[:-1] / (1 - t[:-1]))
    assert FLOW.noise_levels[-1] == pytest.approx(9999)


@pytest.mark.parametrize("parameterization", [vp("v"), FLOW], ids=["vp", "flow"])
def test_the_first_network_input_is_exactly_the_noise(parameterization: Parameterization) -> None:
    seen: list[Array] = []

    def rows(x: Array, _timestep: Array, _names: Sequence[str]) -> Array:
        seen.append(x)
        return x

    sigma = float(parameterization.noise_levels[-1])
    parameterization.branches(rows)(parameterization.initial(EPS, sigma), sigma, ("uncond", "cond"))
    np.testing.assert_allclose(seen[0], np.stack([EPS, EPS]), rtol=1e-12)


def test_branches_are_rows_of_one_call() -> None:
    calls: list[tuple[Array, Array, Sequence[str]]] = []

    def rows(x: Array, timestep: Array, names: Sequence[str]) -> Array:
        calls.append((x, timestep, names))
        return np.stack([x[0], 2 * x[0]]).astype(np.float32)

    parameterization = vp()
    uncond, cond = parameterization.branches(rows)(X0, 1.7, ("uncond", "cond"))
    (call,) = calls
    assert call[0].shape == (2, *X0.shape)
    assert call[1].tolist() == [parameterization.sigma_to_timestep(1.7)] * 2
    assert call[2] == ("uncond", "cond")
    np.testing.assert_allclose(cond.eps, 2 * uncond.eps)
    assert cond.x0.dtype == np.float64


def test_zero_terminal_snr_is_finite_as_in_diffusers() -> None:
    with scheduler(
        "EulerDiscreteScheduler", **BETAS["scaled_linear"], rescale_betas_zero_snr=True, prediction_type="v_prediction"
    ) as oracle:
        abar = oracle.alphas_cumprod.numpy().copy()
        levels = oracle.sigmas.numpy()[-2::-1].copy()
    abar[-1] = 0.0
    np.testing.assert_allclose(Parameterization("vp", "v", abar.tolist()).noise_levels, levels, rtol=1e-12)
    assert levels[-1] == pytest.approx(4096)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("flow", "eps"), "cannot predict"),
        (("vp", "flow", (0.9, 0.1)), "cannot predict"),
        (("vp", "eps", ()), "descend"),
        (("vp", "eps", (0.1, 0.9)), "descend"),
        (("vp", "eps", (1.0, 0.9)), "descend"),
        (("vp", "eps", (0.9, 0.5, 0.5)), "descend"),
        (("vp", "eps", (0.9, 0.0)), "zero terminal SNR"),
    ],
)
def test_impossible_processes_are_refused(arguments: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Parameterization(*arguments)
