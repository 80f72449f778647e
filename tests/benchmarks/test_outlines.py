"""What is called the deviation of an outline is geometry, and a picture's ball is found."""

import numpy as np
import pytest

from benchmarks.outlines import Mask, deviation, plain, silhouette, spread
from training.world import draw, render

Y, X = np.mgrid[:400, :400] - 199.5


def test_an_ellipse_does_not_deviate() -> None:
    turned = (X + 0.5 * Y) ** 2 / 150**2 + Y**2 / 90**2 <= 1
    assert deviation(turned) < 0.005


def test_a_square_deviates_as_geometry_says() -> None:
    square: Mask = (abs(X) < 120) & (abs(Y) < 120)
    radius = 2 / np.sqrt(3)  # of the circle of a square's second moments, in halves of its side: 2 sqrt(1/3)
    cap = radius**2 * np.arccos(1 / radius) - np.sqrt(radius**2 - 1)  # of the circle, beyond one side
    circle = np.pi * radius**2
    assert deviation(square) == pytest.approx((4 - circle + 2 * 4 * cap) / 4, abs=0.005)


def test_the_ball_of_a_render_is_found() -> None:
    scenes = [scene for scene in map(draw, range(3000)) if plain(scene)][:4]
    for scene in scenes:
        mask = silhouette(render(scene, 256), scene.solids[0].colour)
        assert mask is not None
        assert deviation(mask) < 0.1
    assert silhouette(np.full((256, 256, 3), 200, np.uint8), "green") is None


def test_a_median_needs_two_balls() -> None:
    assert spread(np.array([0.5])) == "-"
    assert spread(np.array([0.25, 0.25, 0.25])) == "0.2500 [0.2500, 0.2500]"
