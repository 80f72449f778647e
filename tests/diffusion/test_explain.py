"""The table of steps is what the sampler really does."""

from functools import partial

import pytest

from service.diffusion.explain import Evaluation, explain
from service.diffusion.guidance import cfg
from service.diffusion.options import bound
from service.diffusion.parameterization import Parameterization
from service.diffusion.samplers import SAMPLERS
from service.diffusion.schedules import SCHEDULES
from tests.diffusion.oracle import alphas_cumprod

PARAMETERIZATION = Parameterization("vp", "v", alphas_cumprod("scaled_linear").tolist())
SIGMAS = SCHEDULES["trailing"](PARAMETERIZATION.noise_levels, 4)
NFE = {"heun": 7, "dpmpp_sde": 7, "dpmpp_2s_ancestral": 7}


def test_euler_in_full() -> None:
    table = explain(SAMPLERS["euler"], SIGMAS, PARAMETERIZATION, cfg(5.0, (0.5, 10.0), PARAMETERIZATION))
    both, one = ("uncond", "cond"), ("cond",)
    assert table == [
        Evaluation(0, float(SIGMAS[0]), 999.0, one, 1),
        Evaluation(1, float(SIGMAS[1]), 749.0, both, 2),
        Evaluation(2, float(SIGMAS[2]), 499.0, both, 3),
        Evaluation(3, float(SIGMAS[3]), 249.0, both if SIGMAS[3] > 0.5 else one, 4),
    ]


@pytest.mark.parametrize("name", SAMPLERS)
def test_network_calls_of_every_sampler(name: str) -> None:
    sampler = bound(SAMPLERS[name], {}, {"parameterization": PARAMETERIZATION})
    table = explain(sampler, SIGMAS, PARAMETERIZATION, cfg(1.0, None, PARAMETERIZATION))
    assert [evaluation.nfe for evaluation in table] == list(range(1, NFE.get(name, 4) + 1))
    assert {evaluation.step for evaluation in table} == {0, 1, 2, 3}
    assert all(SIGMAS[e.step] >= e.sigma > SIGMAS[e.step + 1] for e in table)


def test_options_are_bound_beforehand() -> None:
    sampler = partial(SAMPLERS["dpmpp_2m_sde"], eta=0.0, solver="heun")
    assert len(explain(sampler, SIGMAS, PARAMETERIZATION, cfg(1.0, None, PARAMETERIZATION))) == 4
