"""The renderer: deterministic, correctly labelled, the same picture at every size; captions that say what is there."""

import re
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from itertools import count, islice

import numpy as np
import pytest
from numpy.typing import NDArray

from training.world import VOCABULARY, Quality, Scene, again, captions, draw, render
from training.world.quality import GOOD
from training.world.words import (
    BACKDROP_WORDS,
    COLOUR_WORDS,
    COUNT_WORDS,
    KIND_WORDS,
    PLACES,
    TIME_NOUNS,
    TIME_WORDS,
    VIEWS,
    words,
)  # fmt: skip

SEEDS = range(60)
HUES = {"red": 0, "orange": 28, "yellow": 52, "green": 130, "turquoise": 178, "blue": 228, "purple": 278, "pink": 330}


def find(condition: Callable[[Scene], bool], number: int = 1, start: int = 0) -> list[Scene]:
    return list(islice((s for s in map(draw, count(start)) if condition(s)), number))


def says(text: str, options: tuple[str, ...]) -> bool:
    return any(word in text.lower() for word in options)


def without(scene: Scene) -> Scene:
    """The same scene with its objects out of sight: what remains is ground, light and sky."""
    away = tuple(replace(s, x=50.0) for s in scene.solids)
    return replace(scene, solids=away)


def brightness(picture: NDArray[np.uint8]) -> NDArray[np.float64]:
    return np.asarray(picture.mean(-1))


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_same_seed_same_bytes(seed: int) -> None:
    assert render(draw(seed), 64).tobytes() == render(draw(seed), 64).tobytes()


def test_different_seeds_differ() -> None:
    assert len({render(draw(seed), 32).tobytes() for seed in range(8)}) == 8


def test_attributes_belong_to_the_vocabulary() -> None:
    for seed in SEEDS:
        attributes = draw(seed).attributes()
        assert set(attributes) == set(VOCABULARY)
        assert all(value in VOCABULARY[name] for name, value in attributes.items())


def test_every_value_occurs() -> None:
    seen = [draw(seed).attributes() for seed in range(1200)]
    for name, values in VOCABULARY.items():
        assert {attributes[name] for attributes in seen} == set(values)


@pytest.mark.parametrize("place", VOCABULARY["scene"])
def test_a_larger_picture_is_the_same_picture(place: str) -> None:
    """Box-filtered from 1024 to 256 px: a mean difference of at most 2.5 % and a correlation above 0.97."""
    for scene in find(lambda s: s.scene == place, 1, start=500):
        small = render(scene, 256).astype(float)
        large = render(scene, 1024).reshape(256, 4, 256, 4, 3).mean((1, 3))
        assert np.abs(small - large).mean() < 0.025 * 255
        assert np.corrcoef(small.ravel(), large.ravel())[0, 1] > 0.97


def test_strips_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture painted in strips is the picture painted at once, but for the rounding of a few edges."""
    scenes = find(lambda s: s.scene != "studio", 6)
    whole = [render(scene, 128).astype(int) for scene in scenes]
    monkeypatch.setattr(import_module("training.world.render"), "STRIP", 32 * 128)
    for scene, picture in zip(scenes, whole, strict=True):
        assert (np.abs(render(scene, 128) - picture).max(-1) > 4).mean() < 0.001


def test_captions_name_every_attribute() -> None:
    for seed in SEEDS:
        scene = draw(seed)
        for text in captions(scene, 4):
            for solid in scene.solids:
                assert says(text, COLOUR_WORDS[solid.colour])
                assert says(text, KIND_WORDS[solid.kind])
            if scene.first > 1:
                assert says(text, COUNT_WORDS[scene.first])
            if scene.scene == "studio":
                assert says(text, BACKDROP_WORDS[scene.backdrop])
            else:
                assert says(text, TIME_WORDS[scene.time] + TIME_NOUNS[scene.time])
                assert says(text, PLACES[scene.scene] + VIEWS[scene.scene])


def test_captions_are_varied_and_deterministic() -> None:
    scene = draw(5)
    assert captions(scene, 8) == captions(scene, 8)
    assert len(set(captions(scene, 8))) > 4


def test_captions_keep_to_a_closed_vocabulary_and_are_well_formed() -> None:
    known = words()
    for seed in range(300):
        for text in captions(draw(seed), 3, partial=0.4):
            assert text == " ".join(text.split()) != ""
            assert set(re.sub("[,.:]", " ", text.lower()).split()) <= known


def test_partial_captions_leave_something_out() -> None:
    scenes = find(lambda s: bool(s.solids) and s.scene != "studio", 40)
    complete = sum(says(c, TIME_WORDS[s.time] + TIME_NOUNS[s.time]) for s in scenes for c in captions(s, 5, 1.0))
    assert 20 < complete < 150


def test_objects_stand_where_the_relation_says() -> None:
    for scene in find(lambda s: s.relation == "left", 20):
        assert scene.solids[0].x < scene.solids[1].x - 0.5
    for scene in find(lambda s: s.relation == "front", 20):
        assert scene.solids[0].base > scene.solids[1].base + 0.2
    for scene in find(lambda s: s.first > 1, 20):
        gaps = np.diff([s.x for s in scene.solids])
        assert (gaps > 0.4).all()


@pytest.mark.parametrize("colour", HUES)
@pytest.mark.parametrize("place", ["outdoors", "studio"])
def test_the_hue_of_an_object_is_its_colour(colour: str, place: str) -> None:
    """Where the object changes the picture, the median hue is within 28 degrees of the colour's name."""
    wanted = find(lambda s: s.first == len(s.solids) == 1 and s.solids[0].colour == colour
                  and (s.scene == "studio") == (place == "studio"), 2)  # fmt: skip
    for scene in wanted:
        solid, picture, axis = scene.solids[0], render(scene, 96), (np.arange(96) + 0.5) / 48 - 1
        up = (solid.base - axis) / solid.height
        inside = ((up > 0.3) & (up < 1.7))[:, None] & (np.abs(axis - solid.x) < 0.45 * solid.height)[None, :]
        changed = inside & (np.abs(picture.astype(int) - render(without(scene), 96)).max(-1) > 24)
        assert changed.mean() > 0.005
        r, g, b = (picture[changed].astype(float) / 255).T
        hue = np.degrees(np.arctan2(np.sqrt(3) * (g - b), 2 * r - g - b))
        away = (hue - HUES[colour] + 180) % 360 - 180
        assert abs(np.median(away)) < 28


@pytest.mark.parametrize("seed", range(3))
def test_every_object_is_visible(seed: int) -> None:
    """Taking an object away changes at least 1.5 % of the picture."""
    for scene in find(lambda s: len(s.solids) > 1, 4, start=1000 * seed):
        picture = render(scene, 96).astype(int)
        for i in range(len(scene.solids)):
            fewer = replace(
                scene, solids=tuple(replace(s, x=50.0 if j == i else s.x) for j, s in enumerate(scene.solids))
            )
            assert (np.abs(picture - render(fewer, 96)).max(-1) > 16).mean() > 0.015


def test_night_is_darker_than_day() -> None:
    for scene in find(lambda s: s.time == "day" and not s.solids, 6):
        night = replace(scene, time="night", disc="none")
        assert brightness(render(night, 48)).mean() < 0.5 * brightness(render(scene, 48)).mean()


@pytest.mark.parametrize("disc", ["sun", "moon"])
@pytest.mark.parametrize("place", ["mountains", "sea", "desert", "forest", "meadow", "snow"])
def test_the_disc_is_the_brightest_spot_of_the_sky(disc: str, place: str) -> None:
    """The brightest pixel of the upper part of the picture shines, and its surroundings are darker."""
    for scene in find(lambda s: s.disc == disc and s.scene == place and s.time != "day", 3):
        sky = brightness(render(scene, 96))[:66]
        row, column = np.unravel_index(np.argmax(sky), sky.shape)
        away = np.hypot(*np.meshgrid(np.arange(96) - column, np.arange(66) - row))
        assert sky.max() > 222
        assert np.median(sky[(away > 12) & (away < 16)]) < sky.max() - 12


def test_clouds_cover_part_of_the_sky() -> None:
    for scene in find(lambda s: s.sky == "cloudy" and not s.solids and s.time == "day", 4):
        clear = replace(scene, sky="clear")
        assert (np.abs(render(scene, 64).astype(int) - render(clear, 64)).max(-1) > 12).mean() > 0.04


def test_share_of_good_pictures() -> None:
    good = np.mean([draw(seed).quality.good for seed in range(2000)])
    assert good == pytest.approx(GOOD, abs=0.04)


def test_flaws_can_be_measured() -> None:
    scene = draw(3)
    best = render(scene, 96).astype(float)

    def detail(picture: NDArray[np.uint8]) -> float:
        return float(np.abs(np.diff(picture.astype(float), axis=0)).mean())

    assert np.ptp(render(scene, 96, Quality(colour=0.0)).astype(int), axis=-1).max() <= 1
    assert render(scene, 96, Quality(exposure=0.25)).mean() < 0.7 * best.mean()
    assert render(scene, 96, Quality(exposure=3.0)).mean() > 1.15 * best.mean()
    assert detail(render(scene, 96, Quality(blur=2.0))) < 0.9 * detail(best)
    noise = render(scene, 96, Quality(noise=0.08)) - best
    assert noise[(best > 60) & (best < 190)].std() == pytest.approx(0.08 * 255, rel=0.1)
    assert np.abs(render(scene, 96, Quality(tilt=9.0)) - best).mean() > 2


def test_best_quality_ignores_the_flaws_of_the_scene() -> None:
    scene = find(lambda s: not s.quality.good)[0]
    assert render(scene, 48).tobytes() == render(replace(scene, quality=Quality()), 48).tobytes()
    assert render(scene, 48, scene.quality).tobytes() != render(scene, 48).tobytes()


def test_another_scene_of_the_same_description_differs_in_what_the_description_leaves_open() -> None:
    for seed in SEEDS:
        scene, other = draw(seed), again(draw(seed), 10_000 + seed)
        assert other.attributes() == scene.attributes()
        assert again(scene, 10_000 + seed) == other
        for before, after in zip(scene.solids, other.solids, strict=True):
            assert (before.x, before.base, before.yaw) != (after.x, after.base, after.yaw)
        assert np.abs(render(other, 32).astype(int) - render(scene, 32)).max() > 8
