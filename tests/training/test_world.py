"""The renderer: deterministic, correctly labelled, captions that say what is there."""

import numpy as np
import pytest

from training.world import VOCABULARY, Quality, again, captions, draw, render
from training.world.captions import COLOUR_WORDS, KIND_WORDS, PLACES, TIME_NOUNS, TIME_WORDS, VIEWS

SEEDS = range(60)


def says(text: str, words: tuple[str, ...]) -> bool:
    return any(word in text for word in words)


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_same_seed_same_bytes(seed: int) -> None:
    assert render(draw(seed), 64).tobytes() == render(draw(seed), 64).tobytes()


def test_different_seeds_differ() -> None:
    pictures = {render(draw(seed), 32).tobytes() for seed in range(8)}
    assert len(pictures) == 8


def test_attributes_belong_to_the_vocabulary() -> None:
    for seed in SEEDS:
        for name, value in draw(seed).attributes().items():
            assert value in VOCABULARY[name]


def test_every_value_occurs() -> None:
    seen = [draw(seed).attributes() for seed in range(600)]
    for name, values in VOCABULARY.items():
        assert {attributes[name] for attributes in seen} == set(values)


def test_captions_name_every_attribute() -> None:
    for seed in SEEDS:
        scene = draw(seed)
        for text in captions(scene, 4):
            for solid in scene.solids:
                assert says(text, COLOUR_WORDS[solid.colour])
                assert says(text, KIND_WORDS[solid.kind])
            if scene.scene == "studio":
                assert says(text, ("studio", "backdrop", "background", "wall"))
            else:
                assert says(text, TIME_WORDS[scene.time] + TIME_NOUNS[scene.time])
                assert says(text, PLACES[scene.scene] + VIEWS[scene.scene])


def test_captions_are_varied_and_deterministic() -> None:
    scene = draw(5)
    assert captions(scene, 8) == captions(scene, 8)
    assert len(set(captions(scene, 8))) > 4


def test_objects_are_ordered_from_left_to_right() -> None:
    for seed in SEEDS:
        centres = [solid.x for solid in draw(seed).solids]
        assert centres == sorted(centres)


def test_solid_has_its_colour() -> None:
    """The median colour at the middle of a single red object is red."""
    scenes = (draw(seed) for seed in range(400))
    scene = next(s for s in scenes if len(s.solids) == 1 and s.solids[0].colour == "red" and s.solids[0].kind == "cube")
    column = int((scene.solids[0].x + 1) * 64)
    red, green, blue = np.median(render(scene, 128)[64:84, column - 6 : column + 6], axis=(0, 1))
    assert red > 2 * green
    assert red > 2 * blue


def test_quality_knob() -> None:
    scene = draw(3)
    good, grey = render(scene, 64), render(scene, 64, Quality(colour=0.0))
    assert np.ptp(grey.astype(int), axis=-1).max() <= 1
    assert render(scene, 64, Quality(exposure=0.5)).mean() < 0.6 * good.mean()
    assert render(scene, 64, Quality(noise=0.1)).std() > good.std()


def test_another_scene_of_the_same_description_differs_in_what_the_description_leaves_open() -> None:
    for seed in SEEDS:
        scene, other = draw(seed), again(draw(seed), 10_000 + seed)
        assert other.attributes() == scene.attributes()
        assert again(scene, 10_000 + seed) == other
        for before, after in zip(scene.solids, other.solids, strict=True):
            assert (before.glossy, before.yaw) != (after.glossy, after.yaw)
            assert abs(before.x - after.x) <= 0.16  # both within 0.08 of the same place
            assert abs(before.x) < 0.2 or before.x * after.x > 0
        assert render(other, 32).tobytes() != render(scene, 32).tobytes()
