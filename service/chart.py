"""The steps of a recipe as a picture: sigma on a log scale, a mark for every network call. SVG, for light and dark."""

import math
from collections.abc import Sequence
from xml.etree import ElementTree as ET

import numpy as np

from service.diffusion.explain import Evaluation
from service.fields import Recipe

WIDTH, HEIGHT = 720, 380
LEFT, RIGHT, TOP, BOTTOM = 70, 700, 60, 330  # of the plot
ZERO = 26  # room below the log scale for the last sigma, 0
STYLE = """
svg { --ink: #221c18; --quiet: #665d55; --line: #ddd5c6; --mark: #b3261e; --ground: #fbf8f1; font: 12px sans-serif }
@media (prefers-color-scheme: dark) {
  svg { --ink: #f3ead9; --quiet: #b0a596; --line: #3b322c; --mark: #ff7a68; --ground: #14100e }
}
svg { background: var(--ground) }
text { fill: var(--quiet) }
.name { fill: var(--ink); font-size: 15px }
line { stroke: var(--line) }
polyline { fill: none; stroke: var(--mark); stroke-width: 1.5 }
.zero { stroke-dasharray: 2 4 }
circle { fill: var(--ground); stroke: var(--mark); stroke-width: 1.5 }
.guided { fill: var(--mark) }
"""


def steps(recipe: Recipe, calls: Sequence[Evaluation]) -> str:
    """An SVG document; its metadata is the recipe as JSON. Calls of another network are wider rings."""
    guided = sum(len(call.rows) > 1 for call in calls)
    cost = f"{len(calls)} network calls, {guided} guided (filled), {sum(len(call.rows) for call in calls)} rows"
    name = f"{recipe.preset}: {recipe.sampler} on {recipe.schedule}, {recipe.num_inference_steps} steps"
    size = {"width": str(WIDTH), "height": str(HEIGHT), "viewBox": f"0 0 {WIDTH} {HEIGHT}", "role": "img"}
    svg = ET.Element("svg", {"xmlns": "http://www.w3.org/2000/svg", **size})
    _add(svg, "title", f"{name}; {cost}")
    _add(svg, "metadata", recipe.model_dump_json(ensure_ascii=True))  # XML has no words for control characters
    _add(svg, "style", STYLE)
    _add(svg, "text", name, class_="name", x=LEFT, y=24)
    _add(svg, "text", cost, x=LEFT, y=43)
    plane = _Plane(recipe.sigmas)
    _axes(svg, plane)
    points = [f"{plane.x(sigma):.2f},{plane.y(sigma):.2f}" for sigma in recipe.sigmas]
    _add(svg, "polyline", points=" ".join(points[:-1]))
    _add(svg, "polyline", class_="zero", points=" ".join(points[-2:]))
    for call in calls:
        radius = 3.5 if call.network == recipe.network else 7
        kind, x, y = "guided" if len(call.rows) > 1 else "single", plane.x(call.sigma), plane.y(call.sigma)
        mark = _add(svg, "circle", class_=kind, cx=f"{x:.2f}", cy=f"{y:.2f}", r=radius)
        clock = f"call {call.nfe}, step {call.step + 1}: sigma {call.sigma:.4g}, timestep {call.timestep:.2f}"
        _add(mark, "title", f"{clock}, {' and '.join(call.rows)} of {call.network}")
    return ET.tostring(svg, encoding="unicode")


class _Plane:
    """Where a sigma of the recipe lies: x counts steps and is even in log sigma between two of them."""

    def __init__(self, sigmas: Sequence[float]) -> None:
        self.count = len(sigmas) - 1
        self.logs = np.log10(sigmas[:-1])
        self.low = math.floor(float(self.logs[-1]))
        self.high = max(float(self.logs[0]), self.low + 1.0)

    def x(self, sigma: float) -> float:
        step = float(np.interp(-math.log10(sigma), -self.logs, np.arange(self.count))) if sigma > 0 else self.count
        return LEFT + step / self.count * (RIGHT - LEFT)

    def y(self, sigma: float) -> float:
        if sigma <= 0:
            return BOTTOM
        share = (math.log10(sigma) - self.low) / (self.high - self.low)
        return BOTTOM - ZERO - share * (BOTTOM - ZERO - TOP)


def _axes(svg: ET.Element, plane: _Plane) -> None:
    for sigma in (*(10.0**power for power in range(plane.low, math.floor(plane.high) + 1)), 0.0):
        height = f"{plane.y(sigma):.2f}"
        _add(svg, "line", x1=LEFT, x2=RIGHT, y1=height, y2=height)
        _add(svg, "text", f"{sigma:g}", class_="sigma", x=LEFT - 8, y=height, dy=4, text_anchor="end")
    for step in range(0, plane.count + 1, math.ceil(plane.count / 10)):
        x = LEFT + step / plane.count * (RIGHT - LEFT)
        _add(svg, "text", str(step), class_="step", x=f"{x:.2f}", y=BOTTOM + 18, text_anchor="middle")
    _add(svg, "text", "steps done", x=(LEFT + RIGHT) / 2, y=BOTTOM + 38, text_anchor="middle")
    turned = f"translate(18 {(TOP + BOTTOM) / 2}) rotate(-90)"
    _add(svg, "text", "sigma (noise, in units of the latent)", transform=turned, text_anchor="middle")


def _add(parent: ET.Element, tag: str, text: str = "", **attributes: str | float) -> ET.Element:
    """One more element; ``class_`` and ``text_anchor`` are class and text-anchor."""
    named = {name.rstrip("_").replace("_", "-"): str(value) for name, value in attributes.items()}
    node = ET.SubElement(parent, tag, named)
    node.text = text
    return node
