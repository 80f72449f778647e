"""Schedules equal diffusers' where it has them, the published tables otherwise; all decrease and end in 0."""

import numpy as np
import pytest
import scipy.special
import scipy.stats
from diffusers.schedulers import AysSchedules
from hypothesis import given, settings
from hypothesis import strategies as st

from service.diffusion.beta import distribution, quantile
from service.diffusion.options import bound
from service.diffusion.parameterization import Parameterization
from service.diffusion.schedules import FLOW_ONLY, SCHEDULES, check
from service.diffusion.types import Array
from tests.diffusion.oracle import BETAS, alphas_cumprod, scheduler

LEVELS = {betas: Parameterization("vp", "v", alphas_cumprod(betas).tolist()).noise_levels for betas in BETAS} | {
    "flow": Parameterization("flow", "flow", shift=3.0).noise_levels
}

# schedule -> the configuration of diffusers' EulerDiscreteScheduler
TWINS = {
    "beta_sigma": {"use_beta_sigmas": True},
    "leading": {"timestep_spacing": "leading", "steps_offset": 1},
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


def made(name: str, levels: Array, n: int) -> Array:
    return bound(SCHEDULES[name], {}, {"latent_pixels": 4096})(levels, n)


@pytest.mark.parametrize(
    ("name", "levels"),
    [(name, levels) for name in SCHEDULES for levels in (["flow"] if name in FLOW_ONLY else LEVELS)],
)
@settings(max_examples=20)
@given(n=st.integers(2, 150))
def test_every_schedule_decreases_strictly_from_the_top_to_0(name: str, levels: str, n: int) -> None:
    if name == "lcm":
        n = 2 + n // 5  # of its 50 timesteps
    if name == "beta":
        n = 2 + n // 10  # its rounded timesteps coincide beyond that
    sigmas = made(name, LEVELS[levels], n)
    assert sigmas.shape == (n + 1,)
    assert sigmas.dtype == np.float64
    np.testing.assert_array_equal(check(sigmas, LEVELS[levels]), sigmas)
    if name != "leading":
        trained = LEVELS[levels]
        assert sigmas[0] in (trained[-1], trained[995], trained[trained <= np.exp(5.1)][-1])


@pytest.mark.parametrize("name", sorted(set(SCHEDULES) - {"leading"}))
def test_one_step_starts_at_the_top(name: str) -> None:
    sigmas = made(name, LEVELS["scaled_linear"], 1)
    np.testing.assert_array_equal(sigmas, [LEVELS["scaled_linear"][-1], 0.0])


def test_leading_with_one_step_and_beta_with_too_many_are_refused() -> None:
    with pytest.raises(ValueError, match="use trailing"):
        SCHEDULES["leading"](LEVELS["linear"], 1)
    with pytest.raises(ValueError, match="use beta_sigma"):
        SCHEDULES["beta"](LEVELS["linear"], 200)


@pytest.mark.parametrize("n", [8, 20, 33])
def test_beta_is_the_rounded_quantile(n: int) -> None:
    """ComfyUI and stable-diffusion.cpp: timesteps rint(ppf * 999) of 1, 1 - 1/n, ... with alpha = beta = 0.6."""
    timesteps = np.rint(scipy.stats.beta.ppf(1 - np.arange(n) / n, 0.6, 0.6) * 999).astype(int)
    np.testing.assert_array_equal(SCHEDULES["beta"](LEVELS["linear"], n)[:-1], LEVELS["linear"][timesteps])


@pytest.mark.parametrize("a", [0.1, 0.6, 1.0, 3.7, 10.0])
@pytest.mark.parametrize("b", [0.1, 0.6, 1.0, 3.7, 10.0])
def test_beta_quantiles_are_scipys(a: float, b: float) -> None:
    p = np.linspace(0, 1, 101)
    np.testing.assert_allclose(quantile(p, a, b), scipy.stats.beta.ppf(p, a, b), atol=1e-13)
    x = np.linspace(0.001, 0.999, 101)
    np.testing.assert_allclose(distribution(x, a, b), scipy.special.betainc(a, b, x), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("n", [1, 4, 7, 50])
def test_lcm_is_diffusers(n: int) -> None:
    with scheduler("LCMScheduler", **BETAS["scaled_linear"]) as oracle:
        oracle.set_timesteps(n)
        sigmas = SCHEDULES["lcm"](LEVELS["scaled_linear"], n)
        np.testing.assert_array_equal(sigmas[:-1], LEVELS["scaled_linear"][oracle.timesteps.numpy()])
    with pytest.raises(ValueError, match="raise origin"):
        SCHEDULES["lcm"](LEVELS["scaled_linear"], 51)


@pytest.mark.parametrize("n", [4, 10, 30])
def test_simple_counts_down_from_the_top(n: int) -> None:
    """ComfyUI: sigmas[-(1 + int(i * T / n))]."""
    expected = [LEVELS["linear"][-(1 + int(i * 1000 / n))] for i in range(n)]
    np.testing.assert_array_equal(SCHEDULES["simple"](LEVELS["linear"], n)[:-1], expected)


def test_kl_optimal_is_the_published_list() -> None:
    published = [14.615, 4.565, 2.633, 1.786, 1.295, 0.962, 0.712, 0.509, 0.336, 0.178, 0.029]
    np.testing.assert_allclose(SCHEDULES["kl_optimal"](LEVELS["scaled_linear"], 11)[:-1], published, atol=1e-3)


def test_ays_a1111_is_the_list_that_forge_makes_of_ten_steps() -> None:
    published = [14.615, 6.114, 3.565, 2.394, 1.650, 1.136, 0.743, 0.445, 0.169, 0.029]
    mine = SCHEDULES["ays_a1111"](LEVELS["scaled_linear"], 10, table="sd15")
    np.testing.assert_allclose(mine[:-1], published, rtol=9e-3)
    theirs, authors = (made(name, LEVELS["scaled_linear"], n) for name, n in (("ays_a1111", 11), ("ays", 10)))
    np.testing.assert_array_equal(theirs[:-2], authors[:-1])


def test_polyexponential_is_a_ramp_in_log_sigma() -> None:
    sigmas = SCHEDULES["polyexponential"](LEVELS["linear"], 9, rho=2.0)
    logs = (np.log(sigmas[:-1]) - np.log(sigmas[-2])) / np.log(sigmas[0] / sigmas[-2])
    np.testing.assert_allclose(logs, np.linspace(1, 0, 9) ** 2, atol=1e-12)


def test_trailing_may_start_lower() -> None:
    """The one-step recipes of DMD2 and Hyper-SD run at timestep 399 and 800."""
    assert SCHEDULES["trailing"](LEVELS["linear"], 1, start=399)[0] == LEVELS["linear"][399]


@pytest.mark.parametrize("n", [1, 4, 28])
def test_flow_shift_is_diffusers(n: int) -> None:
    with scheduler("FlowMatchEulerDiscreteScheduler", shift=3.0) as oracle:
        oracle.set_timesteps(sigmas=np.linspace(1, 1 / n, n))
        sigmas = SCHEDULES["flow_shift"](LEVELS["flow"], n, shift=3.0)
        np.testing.assert_allclose(sigmas / (1 + sigmas), oracle.sigmas, atol=1.01e-4)
        np.testing.assert_allclose((sigmas / (1 + sigmas))[1:], oracle.sigmas[1:], rtol=1e-9)


@pytest.mark.parametrize("side", [256, 512, 1024])
def test_flow_resolution_is_flux(side: int) -> None:
    tokens = (side // 16) ** 2
    with scheduler("FlowMatchEulerDiscreteScheduler", use_dynamic_shifting=True) as oracle:
        mu = tokens * (1.15 - 0.5) / (4096 - 256) + 0.5 - (1.15 - 0.5) / (4096 - 256) * 256
        oracle.set_timesteps(sigmas=np.linspace(1, 1 / 12, 12), mu=mu)
        sigmas = SCHEDULES["flow_resolution"](LEVELS["flow"], 12, (side // 8) ** 2)
        np.testing.assert_allclose((sigmas / (1 + sigmas))[1:], oracle.sigmas[1:], rtol=1e-9)


@pytest.mark.parametrize("betas", ["scaled_linear", "linear"])
def test_zero_terminal_snr_is_diffusers_rescaling(betas: str) -> None:
    config = BETAS[betas] | {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
    with scheduler("EulerDiscreteScheduler", **config) as oracle:
        mine = Parameterization("vp", "v", alphas_cumprod(betas).tolist(), zero_terminal_snr=True)
        np.testing.assert_allclose(mine.noise_levels, oracle.sigmas.numpy()[-2::-1], rtol=1e-9)


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
