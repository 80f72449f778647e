"""Calibration of a model from its engine's own pictures: a schedule of its own, or constants of epsilon scaling.

What is right is what the recipe's denoiser gives in many small steps: the converged pictures. A candidate is judged by
how far it ends from them for the same noise.
"""

import hashlib
import json
import re
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from glob import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from service.diffusion import align, exposure
from service.diffusion.corrections import SINGULAR
from service.diffusion.options import EpsilonScaling, bound
from service.diffusion.schedules import AYS, FLOW_ONLY, SCHEDULES, VP_ONLY, check
from service.diffusion.types import Array, Denoised
from service.engines.contract import Engine, ModelDescription
from service.errors import InvalidRequest
from service.fields import DEFAULTS, EXPLICIT, OF_REQUESTS, Preset
from service.recipe import Recipe
from service.trials import Pictures, State, typical

ROUNDS = 2  # of subdivision: n -> 2n -> 4n steps
STARTS = 3  # of the descent, which finds the nearest valley
STEPS = range(2, 41)  # counts that a schedule is made for
LEVELS, LEVELS_PER_STEP = 128, 16  # of converged runs: at least; for a schedule of n steps
MAX_BYTES = 1_000_000  # of a file of prompts

Table = tuple[Sequence[str], list[tuple[str, ...]]]  # head, rows


class Finding(NamedTuple):
    """What goes into a preset, and the tables that led there."""

    fields: dict[str, Any]
    tables: list[Table]


def calibrate(
    what: str, engine: Engine, recipe: Recipe, preset: Preset, prompts: Sequence[str], count: int, output: Path
) -> list[Table]:
    """Measure, write a preset, and return what was found as tables. Raises InvalidRequest for what cannot be done."""
    model = engine.models[recipe.model]
    _check_output(output)
    _check_prompts(engine, recipe, prompts)
    _refuse(what, recipe, preset, model)
    digest = hashlib.sha256("\n".join(prompts).encode()).hexdigest()[:16]
    run = {"what": what, "recipe": recipe.model_dump(mode="json"), "prompts": digest, "count": count}
    state = State(output.with_name(output.name + ".partial"), run)
    engine.health()  # alone: OpenVINO's binding can lock up when a process begins with two inferences at once
    levels = max(LEVELS, LEVELS_PER_STEP * recipe.num_inference_steps if what == "schedule" else 0)
    pictures = Pictures(engine, recipe, prompts, state, count=count, levels=levels)
    fields, tables = (schedule if what == "schedule" else epsilon)(pictures)
    fields["evidence"] += (
        f" ({count} pictures, seeds from {recipe.seed}, {len(prompts)} prompts of digest {digest}; model digest"
        f" {recipe.model_digest}, {engine.name} {recipe.precision}; darkroom calibrate {what})"
    )
    text = toml(fields | {"models": [escape(model.name.lower())]})
    Preset(name=output.stem, **tomllib.loads(text))
    with output.open("x", encoding="utf-8") as file:
        file.write(text)
    state.delete()
    return tables


def prompts_of(file: Path) -> list[str]:
    """The lines of a file that are not empty. Raises InvalidRequest, OSError."""
    with file.open("rb") as content:
        data = content.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise InvalidRequest(f"{file} is larger than {MAX_BYTES} bytes", field="prompts")
    try:
        lines = [line.strip() for line in data.decode("utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{file} is not UTF-8", field="prompts") from error
    if not any(lines):
        raise InvalidRequest(f"{file} has no prompts: write one a line, such as the model will get", field="prompts")
    return [line for line in lines if line]


def schedule(pictures: Pictures) -> Finding:
    """Align Your Steps: from the best named schedules down the KLUB, while the pictures gain."""
    recipe, levels, gap = pictures.recipe, pictures.levels, 2**ROUNDS  # room for what refinement puts between
    measured = pictures.converged(paths=True)
    cost = align.costs(levels, measured["disagreements"].mean(axis=0))
    rows: list[tuple[str, ...]] = []

    def judge(label: str, sigmas: Array) -> float:
        distance = pictures.distance(label, measured["latent"], sigmas=tuple(sigmas.tolist()))
        klub = align.klub(cost, align.nearest(levels, sigmas, 1))
        rows.append((label, str(len(sigmas) - 1), f"{klub:.4g}", f"{distance:.4f}"))
        return distance

    named = dict(_named(pictures))
    starts = sorted(named, key=lambda name: judge(name, named[name]))[:STARTS]
    rows.sort(key=lambda row: float(row[-1]))
    before = next(row for row in rows if not row[0].startswith("explicit"))  # the recipe's own levels have no name

    def descent(start: str) -> tuple[float, align.Places]:
        places = align.nearest(levels, named[start], gap)
        return align.descend(cost, places, gap, lambda at: judge(f"downhill from {start}", _sigmas(levels, at)))

    _, places = min(map(descent, starts))
    judge("result", _sigmas(levels, places))
    after = rows[-1]
    while gap > 1:
        gap //= 2
        places = align.refined(cost, places, gap)
        judge("result, refined", _sigmas(levels, places))
    table = [float(f"{level:.9g}") for level in levels[list(places)][::-1]]
    fields = {
        "title": f"Align Your Steps, {recipe.model}",
        "description": f"{recipe.num_inference_steps} steps on a schedule made for {recipe.model}.",
        "evidence": f"measured: distance to the converged pictures {after[-1]}, with {before[0]}, the best of the named"
        f" schedules, {before[-1]}; KLUB {after[-2]}, there {before[-2]}",
        "levels": table,
        "recipe": _own(recipe, pictures.model, {"schedule", "schedule_options", "sigmas"}),
    }
    return Finding(fields, [(("schedule", "steps", "KLUB", "distance"), rows), _shape(pictures, table)])


def epsilon(pictures: Pictures) -> Finding:
    """Epsilon scaling: the norm ratios along own runs, and the constants that bring the pictures nearest."""
    recipe, sigmas = pictures.recipe, np.array(pictures.recipe.sigmas[:-1])
    measured = pictures.converged(paths=False)

    def run(constants: exposure.Constants) -> tuple[float, Array]:
        scaling = EpsilonScaling(**constants._asdict()) if constants != exposure.OFF else None
        label = f"scale {constants.scale:.4f}, slope {constants.slope:.6f}"
        found = pictures.runs(label, measured["latent"], epsilon_scaling=scaling)
        return typical(found["distance"]), found["norms"].mean(axis=0)

    plain, norms = run(exposure.OFF)
    ratios = norms / np.interp(np.log(sigmas), np.log(pictures.levels), measured["norms"].mean(axis=0))
    line = exposure.line(ratios)
    found = exposure.search(lambda constants: run(constants)[0], len(sigmas), line)
    tried = {"none": exposure.OFF, "line through the norm ratios": line, "result": found}
    rows = [(name, f"{c.scale:.4f}", f"{c.slope:.6f}", f"{run(c)[0]:.4f}") for name, c in tried.items()]
    fields = {
        "title": f"Epsilon scaling, {recipe.model}",
        "description": f"{recipe.sampler} in {len(sigmas)} steps with epsilon scaling measured on {recipe.model}.",
        "evidence": f"measured: distance to the converged pictures {rows[-1][-1]}, without the scaling {plain:.4f};"
        f" norm ratios without it {ratios.min():.4f} to {ratios.max():.4f}",
        "recipe": _own(recipe, pictures.model, set()) | {"epsilon_scaling": found._asdict()},
    }
    by_step = [(f"{sigma:.4f}", f"{ratio:.4f}") for sigma, ratio in zip(sigmas, ratios, strict=True)]
    tables: list[Table] = [(("sigma", "norm ratio"), [*by_step]), (("scaling", "scale", "slope", "distance"), [*rows])]
    return Finding(fields, tables)


def toml(fields: dict[str, Any]) -> str:
    """A preset as its file says it. Strings, numbers and lists are spelled as in JSON."""

    def value(given: Any) -> str:
        if isinstance(given, dict):
            return "{ " + ", ".join(f"{key} = {value(item)}" for key, item in given.items()) + " }"
        return json.dumps(given, ensure_ascii=False, allow_nan=False).replace("\x7f", "\\u007f")

    top = [f"{name} = {value(given)}" for name, given in fields.items() if name != "recipe"]
    recipe = [f"{name} = {value(given)}" for name, given in fields["recipe"].items()]
    return "\n".join([*top, "", "[recipe]", *recipe, ""])


def _check_output(output: Path) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*\.toml", output.name, re.ASCII):
        message = f"{output.name!r} cannot name a preset; use letters, digits, dots, - and _, then .toml"
        raise InvalidRequest(message, field="output")
    if output.exists():
        raise InvalidRequest(f"{output} exists already; delete it or choose another name", field="output")


def _check_prompts(engine: Engine, recipe: Recipe, prompts: Sequence[str]) -> None:
    for number, prompt in enumerate(prompts, start=1):
        try:
            engine.tokenize(recipe.model, prompt)
        except InvalidRequest as error:
            raise InvalidRequest(f"prompt {number}: {error.message}", field="prompts") from error


def _refuse(what: str, recipe: Recipe, preset: Preset, model: ModelDescription) -> None:
    """What has no meaning: a denoiser that is no function of x and sigma, a sampler that does not converge."""
    drawn: list[float] = []
    one = np.ones((1, 1, 1))

    def noise(sigma: float, _sigma_next: float) -> Array:
        drawn.append(sigma)
        return one

    recipe.parts(model).sampler(lambda x, _: Denoised(x, 0 * x), one, np.array(recipe.sigmas), noise)
    method, steps = recipe.guidance_method, recipe.num_inference_steps
    for impossible, field, sentence in (
        (preset.fixed, "preset", f"preset {preset.name} is for a network trained on its own steps; take another"),
        (method != "cfg", "guidance_method", f"{method} depends on more than x and sigma; use cfg"),
        (recipe.cads is not None, "cads", "cads noises the condition, so that runs do not converge; leave it out"),
        (bool(drawn), "sampler", f"{recipe.sampler} draws noise, so that runs do not converge; use dpmpp_2m or euler"),
        (
            what == "schedule" and steps not in STEPS,
            "num_inference_steps",
            f"a schedule is made for {STEPS[0]} to {STEPS[-1]} steps, not for {steps}",
        ),
        (
            what == "epsilon" and recipe.time_shift is not None,
            "time_shift",
            "epsilon_scaling and time_shift correct the same error; leave time_shift out",
        ),
        (
            what == "epsilon" and min(recipe.sigmas[:-1]) > SINGULAR,
            "num_inference_steps",
            f"epsilon_scaling acts at sigmas up to {SINGULAR:g} and this recipe has none; add steps",
        ),
    ):
        if impossible:
            raise InvalidRequest(sentence, field=field)


def _named(pictures: Pictures) -> Iterator[tuple[str, Array]]:
    """The recipe's own schedule, and the others that its model and its count of steps allow."""
    recipe, model = pictures.recipe, pictures.model
    seen = {recipe.sigmas}
    yield f"{recipe.schedule} (the recipe's)", np.array(recipe.sigmas)
    facts = {"latent_pixels": recipe.width * recipe.height // model.latent.factor**2}
    for name, function in SCHEDULES.items():
        if name in (FLOW_ONLY if model.noise_schedule.kind == "vp" else VP_ONLY):
            continue
        with suppress(ValueError):  # some have too few levels
            sigmas = bound(function, {}, facts)(pictures.noise_levels, recipe.num_inference_steps)
            if tuple(check(sigmas, pictures.noise_levels).tolist()) not in seen:
                seen.add(tuple(sigmas.tolist()))
                yield name, sigmas


def _sigmas(levels: Array, places: align.Places) -> Array:
    """Decreasing; the lowest level becomes 0."""
    return np.append(levels[list(places)][:0:-1], 0.0)


def _own(recipe: Recipe, model: ModelDescription, without: set[str]) -> dict[str, Any]:
    """The fields of a recipe that a preset needs: those that differ from what they are without being set."""
    fields = recipe.model_dump(mode="json", exclude=OF_REQUESTS | without)
    neutral = DEFAULTS | {"network": model.denoiser}
    if recipe.schedule != EXPLICIT:
        neutral |= {"sigmas": fields.get("sigmas")}  # they follow from it
    return {name: value for name, value in fields.items() if value != neutral.get(name, {})}


def _shape(pictures: Pictures, table: Sequence[float]) -> Table:
    """The schedule step by step, beside the published tables on the same model."""
    steps = pictures.recipe.num_inference_steps
    levels = np.array(table[:: 2**ROUNDS])
    head = ["step", "sigma", "log step"]
    columns = [levels[:-1], np.log(levels[:-1] / levels[1:])]
    for name in AYS if pictures.model.noise_schedule.kind == "vp" else ():
        head.append(f"/ {name}")
        columns.append(levels[:-1] / SCHEDULES["ays"](pictures.noise_levels, steps, table=name)[:-1])
    rows = [(str(i), *(f"{value:.4g}" for value in row)) for i, row in enumerate(zip(*columns, strict=True))]
    return head, rows
