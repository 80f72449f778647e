"""One generator per image: a seed is the same picture, alone or beside others."""

import threading

import numpy as np
import pytest

from service.diffusion.noise import SeededNoise
from service.diffusion.options import bound
from service.diffusion.samplers import SAMPLERS
from service.diffusion.types import Array
from tests.diffusion.mixture import denoise
from tests.diffusion.oracle import ours

FACTS = {"parameterization": ours("eps", "linear")[0]}
SIGMAS = np.array([10.0, 5.0, 2.0, 1.0, 0.3, 0.0])


def picture(sampler: str, seed: int) -> Array:
    noise = SeededNoise(seed, (2, 3, 4))
    return bound(SAMPLERS[sampler], {}, FACTS)(denoise, SIGMAS[0] * noise.draw(), SIGMAS, noise)


def test_the_stream_is_numpys_pcg64() -> None:
    noise = SeededNoise(7, (2, 3))
    expected = np.random.Generator(np.random.PCG64(7)).standard_normal((2, 2, 3))
    np.testing.assert_array_equal([noise.draw(), noise(2.0, 1.0)], expected)


def test_seeds_up_to_two_to_the_53_differ() -> None:
    drawn = [SeededNoise(seed, (4,)).draw().tobytes() for seed in (0, 1, 2**32, 2**53 - 1)]
    assert len(set(drawn)) == 4


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_same_seed_is_the_same_bytes_beside_other_runs(sampler: str) -> None:
    alone = picture(sampler, 3).tobytes()
    others = [threading.Thread(target=picture, args=(name, seed)) for seed, name in enumerate(SAMPLERS)]
    for thread in others:
        thread.start()
    beside = picture(sampler, 3).tobytes()
    for thread in others:
        thread.join()
    assert beside == alone
    assert picture(sampler, 4).tobytes() != alone


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers_leave_their_arguments_alone(sampler: str) -> None:
    x, sigmas = SIGMAS[0] * SeededNoise(0, (2, 3, 4)).draw(), SIGMAS.copy()
    before = x.copy()
    result = bound(SAMPLERS[sampler], {}, FACTS)(denoise, x, sigmas, SeededNoise(1, x.shape))
    np.testing.assert_array_equal(x, before)
    np.testing.assert_array_equal(sigmas, SIGMAS)
    assert result.dtype == np.float64
    assert result.shape == x.shape
