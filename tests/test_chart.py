"""The picture of the steps, parsed back: its marks lie where its own axes put the sigmas of the table."""

import json
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from service import chart
from service.recipe import Overrides, load_presets, resolve
from tests.recipes import FAMILY

NS = "{http://www.w3.org/2000/svg}"
HOSTILE = "<script>alert(1)</script>]]>&amp; \"' -->"
UNSPEAKABLE = "\u0001\u0000\x1b\u202e\ufffe \U0001f305"  # most of it has no place in XML, not even as a reference


def drawn(**fields: Any) -> tuple[Any, list[Any], ET.Element]:
    """A recipe, its calls, and the picture as a parser sees it."""
    body = {"prompt": "", "seed": 1, "model": "studied"} | fields
    recipe = resolve(Overrides.parse(body), load_presets(), FAMILY, "embedded", "bf16")
    calls = recipe.calls(FAMILY[recipe.model])
    return recipe, calls, ET.fromstring(chart.steps(recipe, calls))


class Axes:
    """What a reader makes of the ticks: steps from x, sigmas from y."""

    def __init__(self, svg: ET.Element) -> None:
        steps, sigmas = (
            [(float(tick.get(at)), float(tick.text)) for tick in svg.iter(f"{NS}text") if tick.get("class") == kind]
            for kind, at in (("step", "x"), ("sigma", "y"))
        )
        ((self.zero, _),) = [tick for tick in sigmas if tick[1] == 0]
        self._step = np.polynomial.Polynomial.fit(*zip(*steps, strict=True), 1)
        self._log = np.polynomial.Polynomial.fit(
            *zip(*((y, np.log(sigma)) for y, sigma in sigmas if sigma), strict=True), 1
        )

    def read(self, x: str, y: str) -> tuple[float, float]:
        return float(self._step(float(x))), 0.0 if float(y) == self.zero else float(np.exp(self._log(float(y))))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"sampler": "heun", "schedule": "karras", "num_inference_steps": 7},
        {"sampler": "dpmpp_sde", "num_inference_steps": 30},
        {"sigmas": [3.0, 0.0]},
        {"sigmas": [100.0, 99.9, 20.0, 0.001, 0.0]},
        {"initial_network": "unet_initial", "residual_network": "unet_residual"},
    ],
)
def test_points_are_the_sigmas_and_marks_the_calls(fields: dict[str, Any]) -> None:
    recipe, calls, svg = drawn(guidance_scale=3, guidance_interval=[0.5, 50.0], **fields)
    axes = Axes(svg)
    line, to_zero = ([axes.read(*pair.split(",")) for pair in node.get("points").split()] for node in lines(svg))
    expected = list(enumerate(recipe.sigmas))
    np.testing.assert_allclose([*line, to_zero[-1]], expected, rtol=1e-3, atol=1e-3)
    assert to_zero[0] == line[-1]
    marks = list(svg.iter(f"{NS}circle"))
    for mark, call in zip(marks, calls, strict=True):
        step, sigma = axes.read(mark.get("cx"), mark.get("cy"))
        assert sigma == pytest.approx(call.sigma, rel=1e-3)
        assert call.step - 1e-3 <= step <= call.step + 1 + 1e-3
        assert (mark.get("class") == "guided") == (call.rows == ("uncond", "cond"))
        assert (float(mark.get("r")) > 5) == (call.network != recipe.network)
        assert f"sigma {call.sigma:.4g}, timestep {call.timestep:.2f}" in mark.find(f"{NS}title").text
        assert mark.find(f"{NS}title").text.endswith(call.network)


def lines(svg: ET.Element) -> list[ET.Element]:
    return list(svg.iter(f"{NS}polyline"))


def test_what_is_hostile_stays_text_and_the_picture_carries_its_recipe() -> None:
    recipe, _, svg = drawn(prompt=HOSTILE + UNSPEAKABLE, negative_prompt=HOSTILE)
    assert json.loads(svg.find(f"{NS}metadata").text) == json.loads(recipe.model_dump_json())
    named = recipe.model_copy(update={"preset": HOSTILE})
    again = ET.fromstring(chart.steps(named, []))
    assert named.preset in again.find(f"{NS}title").text
    allowed = {"svg", "title", "metadata", "style", "text", "line", "polyline", "circle"}
    assert {node.tag.removeprefix(NS) for node in again.iter()} <= allowed
