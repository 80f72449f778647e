"""Tables and plots of the results, as a section of docs/evidence.md."""

from collections.abc import Iterable
from math import isnan
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.recipes.claims import sentences
from benchmarks.recipes.measure import COPIES, REFERENCES
from benchmarks.recipes.methods import CALLS, STEPS, Method, distinct
from benchmarks.recipes.results import TITLES, Results
from training.evaluate import RENDERS, front
from training.measures import AXES, Estimate
from training.pictures import pareto

GRIDS = {"ays": "C0", "trailing": "C1", "karras": "C2", "linspace": "C3"}
TWO_M = {"ays": "ays", "trailing": "balanced", "karras": "2M, karras", "linspace": "2M, linspace"}


def write(results: Results, folder: Path) -> Path:
    """``recipes.md`` and its plots; their links are relative to docs/."""
    text = "\n".join([*_head(results), *_claims(results), *_tables(results)])
    (folder / "recipes.md").write_text(text + "\n")
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    _errors(left, results)
    _distances(right, results)
    figure.savefig(folder / "recipes-calls.png", dpi=90)
    chosen = {m.name: results.estimates(m.name, m.chosen) for m in results.methods.values() if m.preset}
    pareto(chosen | {RENDERS: results.estimates(RENDERS)}, front(chosen), folder / "recipes-pareto.png")
    return folder / "recipes.md"


def _head(results: Results) -> list[str]:
    renders = results.estimates(RENDERS)
    return [
        "## Recipes on Postcard",
        "",
        f"`python -m benchmarks.recipes`: {results.prompts} held-out prompts, {COPIES} pictures of each, the same "
        "noise for every method; the embedded engine, two requests at a time. Intervals are 95 %, over prompts "
        "(bootstrap), of paired differences where two methods are compared; each stands for itself, without "
        "correction for their number.",
        "",
        "Error: distance of the latent to that of the converged trajectory from the same noise (`balanced` in "
        f"{STEPS} steps), relative to its length; none for SDEs, CADS and guidance other than the default's. "
        "Fréchet distance, precision and recall: "
        f"in the judge's features on {AXES} principal axes ({100 * results.kept:.0f} % of their variance) against "
        f"{REFERENCES} renders of each prompt; the distance is jackknifed, which takes out the bias of few pictures, "
        "and may fall below 0. Accuracy: share of a prompt's attributes (scene, time, kind, colour) that the judge "
        "reads in the picture. Diversity: distance between pictures of one prompt, 1 for renders. Seconds: one request "
        "beside another.",
        "",
        f"Renders, judged like pictures: accuracy {_cell(renders['accuracy'])}, object kind {_cell(renders['kind'])} "
        f"on the prompts that name an object (the judge's own limit), Fréchet distance {_cell(renders['frechet'])}, "
        f"precision {_cell(renders['precision'])}, recall {_cell(renders['recall'])}, "
        f"diversity {_cell(renders['diversity'])}.",
        "",
        "![Error and Fréchet distance against network calls](recipes-calls.png)",
        "",
        "![Consistency, diversity and realism of the presets](recipes-pareto.png)",
    ]


def _claims(results: Results) -> list[str]:
    return ["", "### Which published claims hold here", *sentences(results)]


def _tables(results: Results) -> list[str]:
    methods = distinct(results.methods.values())
    presets, variants = ([m for m in methods if m.preset is kind] for kind in (True, False))
    return [
        "", "### Presets by number of network calls", "", *_table(results, presets),
        "", "### Variants", "", *_table(results, variants),
    ]  # fmt: skip


def _table(results: Results, methods: Iterable[Method]) -> list[str]:
    lines = ["| | calls | " + " | ".join(TITLES.values()) + " |", "|---" * (len(TITLES) + 2) + "|"]
    for method in methods:
        for calls in method.recipes:
            cells = map(_cell, results.estimates(method.name, calls).values())
            lines.append(f"| {method.name} | {calls} | " + " | ".join(cells) + " |")
    return lines


def _cell(estimate: Estimate) -> str:
    if isnan(estimate.mean):
        return "-"
    digits = 1 if estimate.mean >= 10 else 3
    return f"{estimate.mean:.{digits}f} ±{(estimate.high - estimate.low) / 2:.{digits}f}"


def _errors(axis: Axes, results: Results) -> None:
    """Of the two solvers on four grids."""
    lines = [(f"2M, {grid}", name, GRIDS[grid], "-") for grid, name in TWO_M.items()]
    lines += [(f"Euler, {grid}", f"Euler, {grid}", colour, ":") for grid, colour in GRIDS.items()]
    for label, name, colour, style in lines:
        _line(axis, results, name, "error", label, colour, style)
    axis.set(xlabel="network calls", ylabel="error to the converged trajectory", xscale="log", yscale="log")
    _ticks(axis)


def _distances(axis: Axes, results: Results) -> None:
    """Of the presets."""
    presets = [method for method in distinct(results.methods.values()) if method.preset]
    for number, method in enumerate(presets):
        _line(axis, results, method.name, "frechet", method.name, f"C{number}", "-")
    axis.set(xlabel="network calls", ylabel="Fréchet distance to renders", xscale="log")
    _ticks(axis)


def _line(axis: Axes, results: Results, name: str, measure: str, label: str, colour: str, style: str) -> None:
    if name not in results.methods:
        return
    points = {n: results.estimates(name, n)[measure] for n in results.methods[name].recipes if n in CALLS}
    means = [point.mean for point in points.values()]
    errors = [[p.mean - p.low for p in points.values()], [p.high - p.mean for p in points.values()]]
    axis.errorbar(list(points), means, errors, label=label, color=colour, linestyle=style, marker=".", linewidth=1)


def _ticks(axis: Axes) -> None:
    axis.set_xticks(CALLS, map(str, CALLS))
    axis.minorticks_off()
    axis.legend(fontsize="small")
    axis.grid(alpha=0.3)
