"""The table of steps is what the sampler really does."""

from typing import Any

import pytest

from service.diffusion.compose import Parts
from service.diffusion.explain import Evaluation, explain
from service.diffusion.guidance import Interval, cfg
from service.diffusion.networks import finish, start
from service.diffusion.options import bound
from service.diffusion.parameterization import Parameterization
from service.diffusion.samplers import SAMPLERS
from service.diffusion.schedules import SCHEDULES
from tests.diffusion.oracle import alphas_cumprod

PARAMETERIZATION = Parameterization("vp", "v", alphas_cumprod("scaled_linear").tolist())
SIGMAS = SCHEDULES["trailing"](PARAMETERIZATION.noise_levels, 4).tolist()
NFE = {"heun": 7, "dpmpp_sde": 7, "dpmpp_2s_ancestral": 7}
BOTH, ONE = ("uncond", "cond"), ("cond",)


def table(
    sampler: str,
    scale: float = 1.0,
    interval: Interval | None = None,
    *,
    initial: str | None = None,
    residual: str | None = None,
    **options: Any,
) -> list[Evaluation]:
    parts = Parts(
        PARAMETERIZATION,
        "unet",
        start(initial, PARAMETERIZATION, SIGMAS[0], scale, interval),
        bound(SAMPLERS[sampler], options, {"parameterization": PARAMETERIZATION}),
        finish(residual),
        cfg(scale, interval, PARAMETERIZATION),
        [],
        [],
    )
    return explain(parts, SIGMAS)


def test_euler_in_full() -> None:
    assert table("euler", 5.0, (0.5, 10.0)) == [
        Evaluation(0, SIGMAS[0], 999.0, ONE, 1, "unet"),
        Evaluation(1, SIGMAS[1], 749.0, BOTH, 2, "unet"),
        Evaluation(2, SIGMAS[2], 499.0, BOTH, 3, "unet"),
        Evaluation(3, SIGMAS[3], 249.0, BOTH if SIGMAS[3] > 0.5 else ONE, 4, "unet"),
    ]


@pytest.mark.parametrize(
    ("scale", "interval", "rows"),
    [(1.0, None, ONE), (5.0, None, BOTH), (5.0, (0.5, 10.0), ONE), (5.0, (0.5, 20.0), BOTH)],
)
def test_further_networks_stand_before_and_after(scale: float, interval: Interval | None, rows: tuple[str]) -> None:
    first, *steps, last = table("euler", scale, interval, initial="unet_initial", residual="unet_residual")
    assert first == Evaluation(0, SIGMAS[0], 999.0, rows, 1, "unet_initial")
    assert last == Evaluation(3, 0.0, 0.0, ONE, 6, "unet_residual")
    assert [call._replace(nfe=call.nfe - 1) for call in steps] == table("euler", scale, interval)


@pytest.mark.parametrize("name", SAMPLERS)
def test_network_calls_of_every_sampler(name: str) -> None:
    calls = table(name)
    assert [call.nfe for call in calls] == list(range(1, NFE.get(name, 4) + 1))
    assert {call.step for call in calls} == {0, 1, 2, 3}
    assert all(SIGMAS[call.step] >= call.sigma > SIGMAS[call.step + 1] for call in calls)


def test_options_are_bound_beforehand() -> None:
    assert len(table("dpmpp_2m_sde", eta=0.0, solver="heun")) == 4
