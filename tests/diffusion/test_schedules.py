"""Schedules equal diffusers' where it has them, the published tables otherwise; all decrease and end in 0."""

import numpy as np
import pytest
from diffusers.schedulers import AysSchedules
from hypothesis import given
from hypothesis import strategies as st

from service.diffusion.parameterization import Parameterization
from service.diffusion.schedules import SCHEDULES, check
from service.diffusion.types import Array
from tests.diffusion.oracle import BETAS, alphas_cumprod, scheduler

LEVELS = {betas: Parameterization("vp", "v", alphas_cumprod(betas).tolist()).noise_levels for betas in BETAS} | {
    "flow": Parameterization("flow", "flow", shift=3.0).noise_levels
}

# schedule -> the configuration of diffusers' EulerDiscreteScheduler
TWINS = {
    "linspace": {"timestep_spacing": "linspace"},
    "trailing": {"timestep_spacing": "trailing"},
    "karras": {"use_karras_sigmas": True},
    "exponential": {"use_exponential_sigmas": True},
}


@pytest.mark.parametrize("n", [2, 8, 10, 25, 50, 77])
@pytest.mark.parametrize("betas", ["scaled_linear", "linear"])
@pytest.mark.parametrize("name", TWINS)
def test_equal_to_diffusers(name: str, betas: str, n: int) -> None:
    with scheduler("EulerDiscreteScheduler", **BETAS[betas], **TWINS[name]) as oracle:
        oracle.set_timesteps(n)
        np.testing.assert_allclose(SCHEDULES[name](LEVELS[betas], n), oracle.sigmas, rtol=1e-10)


@pytest.mark.parametrize("name", ["linspace", "trailing"])
def test_equal_to_diffusers_on_the_cosine_process(name: str) -> None:
    with scheduler("EulerDiscreteScheduler", **BETAS["squaredcos"], **TWINS[name]) as oracle:
        oracle.set_timesteps(20)
        np.testing.assert_allclose(SCHEDULES[name](LEVELS["squaredcos"], 20), oracle.sigmas, rtol=1e-10)


def test_karras_of_a_cosine_process_starts_where_the_signal_begins() -> None:
    """diffusers starts at 20291 and spends half of the steps above sigma 160, where alpha / sigma < exp(-5.1)."""
    assert SCHEDULES["karras"](LEVELS["squaredcos"], 10)[0] == LEVELS["squaredcos"][995]
    explicit = SCHEDULES["karras"](LEVELS["squaredcos"], 10, sigma_max=float(LEVELS["squaredcos"][-1]))
    with scheduler("EulerDiscreteScheduler", **BETAS["squaredcos"], use_karras_sigmas=True) as oracle:
        oracle.set_timesteps(10)
        np.testing.assert_allclose(explicit, oracle.sigmas, rtol=1e-10)


@pytest.mark.parametrize(("table", "name"), [("sd15", "StableDiffusion"), ("sdxl", "StableDiffusionXL")])
def test_ays_is_the_published_table(table: str, name: str) -> None:
    mine = SCHEDULES["ays"](LEVELS["scaled_linear"], 10, table=table)
    np.testing.assert_allclose(mine, AysSchedules[f"{name}Sigmas"], atol=5e-3, rtol=2e-3)
    indices = AysSchedules[f"{name}Timesteps"]
    np.testing.assert_allclose(mine[:-1], LEVELS["scaled_linear"][indices], rtol=1e-12)


def test_ays_of_the_cosine_process_is_the_table_of_deepfloyd() -> None:
    """Align Your Steps, table 3: DeepFloyd-IF stage 1."""
    published = [160.41, 8.081, 3.315, 1.885, 1.207, 0.785, 0.553, 0.293, 0.186, 0.030]
    mine = SCHEDULES["ays"](LEVELS["squaredcos"], 10)
    np.testing.assert_allclose(mine[:-1], published, atol=6e-4, rtol=1e-4)


# The 20-step lists that users of the authors' log-linear interpolation know.
AYS_20 = {
    "sd15": "14.615 9.728 6.475 5.000 3.861 3.227 2.697 2.255 1.886 1.623 "
    "1.396 1.159 .963 .792 .652 .510 .399 .246 .152 .066",
    "sdxl": "14.615 9.607 6.315 4.880 3.771 2.868 2.181 1.711 1.342 1.076 "
    ".862 .692 .555 .459 .380 .298 .234 .163 .113 .057",
}


@pytest.mark.parametrize("table", AYS_20)
def test_ays_interpolates_log_linearly(table: str) -> None:
    mine = SCHEDULES["ays"](LEVELS["scaled_linear"], 20, table=table)
    np.testing.assert_allclose(mine[:-1], [float(s) for s in AYS_20[table].split()], rtol=0.015)


def test_trailing_of_a_flow_model_is_the_shifted_grid() -> None:
    """Ten steps of SD3 (shift 3)."""
    sigmas = SCHEDULES["trailing"](LEVELS["flow"], 10)
    published = [1, 0.964, 0.923, 0.875, 0.818, 0.750, 0.667, 0.562, 0.429, 0.250, 0]
    np.testing.assert_allclose(sigmas / (1 + sigmas), published, atol=6e-4)


@pytest.mark.parametrize("levels", LEVELS.values(), ids=LEVELS)
@pytest.mark.parametrize("name", SCHEDULES)
@given(n=st.integers(1, 200))
def test_every_schedule_decreases_strictly_from_the_top_to_0(name: str, levels: Array, n: int) -> None:
    sigmas = SCHEDULES[name](levels, n)
    assert sigmas.shape == (n + 1,)
    assert sigmas.dtype == np.float64
    np.testing.assert_array_equal(check(sigmas, levels), sigmas)
    assert sigmas[0] in (levels[-1], levels[995], levels[levels <= np.exp(5.1)][-1])


@given(st.integers(2, 200), st.floats(1, 50), st.floats(0.01, 1), st.floats(1.5, 80))
def test_karras_is_even_in_the_root(n: int, rho: float, low: float, high: float) -> None:
    sigmas = SCHEDULES["karras"](LEVELS["scaled_linear"], n, rho=rho, sigma_min=low, sigma_max=high)
    roots = sigmas[:-1] ** (1 / rho)
    np.testing.assert_allclose(np.diff(roots), (low ** (1 / rho) - high ** (1 / rho)) / (n - 1), rtol=1e-6)
    assert sigmas[0] == high
    assert sigmas[-2] == pytest.approx(low)


def test_ends_that_make_no_range_are_refused() -> None:
    with pytest.raises(ValueError, match="below sigma_max"):
        SCHEDULES["karras"](LEVELS["linear"], 5, sigma_min=3.0, sigma_max=2.0)


@pytest.mark.parametrize(
    ("sigmas", "sentence"),
    [
        ([], "at least two"),
        ([0.0], "at least two"),
        ([1.0, float("nan"), 0.0], "finite"),
        ([float("inf"), 0.0], "finite"),
        ([1.0, 2.0, 0.0], "decrease"),
        ([1.0, 1.0, 0.0], "decrease"),
        ([2.0, 1.0], "end in 0"),
        ([1.0, 0.0, -1.0], "end in 0"),
        ([20.0, 1.0, 0.0], "exceed"),
        ([1.0, 1e-9, 0.0], "fall below"),
    ],
)
def test_impossible_sigmas_are_refused(sigmas: list[float], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        check(sigmas, LEVELS["scaled_linear"])
