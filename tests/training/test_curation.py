"""Curation: known statistics, and selections that are right by construction."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from training import config, curation, curator, judge, pairs
from training.world import Quality, draw, render

RNG = np.random.default_rng(0)


def column(name: str, pixels: np.ndarray) -> float:
    """One statistic of a picture (h, w) of grey or (h, w, 3)."""
    colour = np.broadcast_to(pixels[..., None], (*pixels.shape, 3)) if pixels.ndim == 2 else pixels
    numbers = curator.statistics(torch.from_numpy(np.ascontiguousarray(colour.transpose(2, 0, 1))).float()[None])
    return float(numbers[0, curator.STATISTICS.index(name)])


@pytest.fixture(scope="module")
def gradient() -> np.ndarray:
    return np.tile(np.linspace(0.2, 0.8, 256), (256, 1))


def test_statistics_of_known_pictures(gradient: np.ndarray) -> None:
    assert column("exposure", np.full((64, 64), 0.3)) == pytest.approx(0.3)
    assert column("clipped", np.repeat([[0.0, 0.5, 1.0, 0.5]], 4, 0).repeat(16, 0).repeat(16, 1)) == 0.5
    assert column("saturation", np.broadcast_to([0.9, 0.2, 0.4], (64, 64, 3))) == pytest.approx(0.7, rel=1e-5)
    blocks = gradient.reshape(32, 8, 32, 8).mean((1, 3))
    assert column("contrast", gradient) == pytest.approx(blocks.std(ddof=1), rel=1e-5)


@pytest.mark.parametrize("sigma", [0.02, 0.07, 0.16])
def test_noise_is_measured_and_is_no_contrast(gradient: np.ndarray, sigma: float) -> None:
    noisy = gradient + sigma * RNG.standard_normal(gradient.shape)
    assert column("noise", noisy) == pytest.approx(sigma, rel=0.03)
    grey = np.full((256, 256), 0.5)
    assert column("contrast", grey + sigma * RNG.standard_normal(grey.shape)) == pytest.approx(sigma / 8, rel=0.1)


def test_sharpness_of_a_step_and_of_what_blur_makes_of_it() -> None:
    step = np.tile(np.repeat([[0.2, 0.8]], 8, 1), (256, 16))
    assert column("sharpness", step) == pytest.approx(1, abs=0.01)
    assert column("sharpness", ndimage.gaussian_filter(step, (0, 2))) == pytest.approx(0.5, abs=0.06)


def test_everything_good_and_nothing_else_is_chosen_when_the_score_is_the_truth() -> None:
    good, cluster = RNG.random(600) < 0.36, RNG.integers(0, 7, 600)
    thumbnails = RNG.random((600, 192))
    found = curation.select(good.astype(float), cluster, thumbnails, int(good.sum()), power=1.0, distance=0.0)
    assert len(set(found)) == good.sum()
    few = curation.select(good.astype(float), cluster, thumbnails, 70, power=0.0, distance=0.0)
    assert good[few].all()
    assert np.bincount(cluster[few]).tolist() == [10] * 7


def test_a_rare_concept_survives_and_gives_its_best() -> None:
    cluster = np.array([0] * 990 + [1] * 10)
    score = np.linspace(1, 0, 1000)
    found = curation.select(score, cluster, RNG.random((1000, 192)), 100, power=0.5, distance=0.0)
    rare = [i for i in found if cluster[i] == 1]
    assert rare == list(range(990, 990 + len(rare)))
    assert len(rare) == 9  # a proportional draw would keep one
    assert found == sorted(found)


def test_duplicates_leave_their_best_copy() -> None:
    thumbnails = np.repeat(RNG.random((50, 192)), 4, axis=0) + 0.001 * RNG.random((200, 192))
    score = RNG.random(200)
    found = curation.select(score, RNG.integers(0, 5, 200), thumbnails, 200, power=0.5, distance=0.02)
    assert sorted(i // 4 for i in found) == list(range(50))
    one = curation.select(score, np.zeros(200, int), thumbnails, 200, power=0.5, distance=0.02)
    assert sorted(one) == [4 * k + int(score[4 * k : 4 * k + 4].argmax()) for k in range(50)]


@given(st.lists(st.integers(0, 40), min_size=1, max_size=9), st.integers(0, 150), st.sampled_from([0.0, 0.5, 1.0]))
def test_quotas_share_out_exactly_what_there_is(sizes: list[int], count: int, power: float) -> None:
    given_ = curation.quotas(np.array(sizes), count, power)
    assert given_.sum() == min(count, sum(sizes))
    assert (given_ <= sizes).all()
    assert (given_ >= 0).all()


def test_quotas_to_the_power_of_one_keep_the_shares() -> None:
    assert curation.quotas(np.array([100, 50, 50]), 100, 1.0).tolist() == [50, 25, 25]


def test_separate_heaps_are_clusters() -> None:
    points = np.repeat(10 * RNG.standard_normal((5, 8)), 40, 0) + 0.1 * RNG.standard_normal((200, 8))
    found = curation.clusters(points, 5)
    assert len({tuple(found[i : i + 40]) for i in range(0, 200, 40)}) == 5
    assert all(len(set(found[i : i + 40])) == 1 for i in range(0, 200, 40))


def test_filters_pass_what_lies_within_the_limits_of_all_statistics() -> None:
    limits = np.array([[0.0, 1.0], [1.0, 2.0]])
    assert curator.passing(np.array([[0.5, 1.5], [0.5, 2.5], [-0.1, 1.5], [1.0, 1.0]]), limits).tolist() == [
        True, False, False, True,
    ]  # fmt: skip


def test_pairs_are_a_scene_at_its_best_and_with_flaws() -> None:
    for seed in range(20):
        scene = draw(seed)
        flawed = pairs.spoiled(scene)
        assert replace(flawed, quality=scene.quality) == scene
        assert flawed == scene if scene.quality != Quality() else flawed.quality != Quality()
        assert flawed == pairs.spoiled(draw(seed))
    better, worse = pairs.render_pair(3, 64)
    np.testing.assert_array_equal(better, render(draw(3), 64))
    assert not np.array_equal(better, worse)


def test_a_report_counts_pictures_the_good_ones_and_concepts() -> None:
    scenes = [draw(seed) for seed in range(60)]
    row = curation.describe(scenes, ["scene"])
    assert row["good"] == sum(scene.quality.good for scene in scenes) / 60
    assert row["concepts"] == len({scene.scene for scene in scenes})
    assert curation.describe(scenes[:1], ["scene", "time"])["concepts"] == 1


def test_no_two_stages_share_a_seed() -> None:
    s = config.load()
    starts = sorted(
        [
            (s.world.seed, s.world.pictures), *((judge.seeds(s, j).start, s.judge.pictures) for j in ("judge", "eye")),
            (s.world.evaluation_seed, s.evaluation.prompts), (s.tuning.validation_seed, s.tuning.prompts),
            (s.curation.label_seed, s.curation.pairs), (s.preference.seed, 2 * s.preference.pairs),
        ]
    )  # fmt: skip
    assert all(a + count <= b for (a, count), (b, _) in pairwise(starts))
