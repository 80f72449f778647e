"""Calibration end to end: on the closed-form engine, interrupted and continued, with every kind of bad input."""

import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from service import calibrate
from service.__main__ import main
from service.diffusion.schedules import SCHEDULES
from service.engines.contract import Engine
from service.engines.factory import open_engine
from service.engines.gaussian import GaussianEngine
from service.errors import InvalidRequest
from service.fields import Overrides, Preset, load_presets
from service.pipeline import Stopwatch, develop, encode
from service.recipe import Recipe, parameterization, resolve
from service.settings import Settings
from service.trials import Pictures, State

DARKROOM = Path(sys.executable).parent / "darkroom"
SMALL = ["--engine", "gaussian", "--size", "64x64", "--prompts", "prompts.txt", "--pictures", "3"]
FIVE = [*SMALL, "--steps", "5"]
PROMPTS = ["a lake", "hills at dawn"]


def darkroom(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["calibrate", *arguments], prog_name="darkroom")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("prompts.txt").write_text("a lake\n\n  hills at dawn \n")
    return tmp_path


@pytest.fixture
def engine() -> Engine:
    return open_engine(Settings(engine="gaussian"))


def recipe_of(engine: Engine, presets: Any = None, **fields: Any) -> Recipe:
    body = {"prompt": "a lake", "seed": 0, "width": 64, "height": 64, "num_inference_steps": 5} | fields
    return resolve(Overrides.parse(body), presets or load_presets(), engine.models, engine.name, engine.precision)


def pictures(engine: Engine, recipe: Recipe, levels: int = 128) -> Pictures:
    return Pictures(engine, recipe, PROMPTS, State(Path("state"), {}), count=3, levels=levels)


def test_a_schedule_becomes_a_preset_that_serves_its_levels(tmp_path: Path, engine: Engine) -> None:
    run = darkroom("schedule", *FIVE, "-o", "mine.toml")
    assert run.exit_code == 0, run.output
    assert sorted(file.name for file in tmp_path.iterdir()) == ["mine.toml", "prompts.txt"]
    presets = load_presets(tmp_path)
    levels = np.array(presets["mine"].levels)
    known = parameterization(engine.models["gaussian"]).noise_levels
    assert len(levels) == 21
    assert np.all(np.diff(levels) < 0)
    np.testing.assert_allclose(levels[[0, -1]], SCHEDULES["exponential"](known, 2)[:2], rtol=1e-8)  # the ends are kept
    for steps in (5, 10, 20):
        recipe = recipe_of(engine, presets, preset="mine", num_inference_steps=steps)
        np.testing.assert_allclose(recipe.sigmas, [*levels[:: 20 // steps][:-1], 0.0], rtol=1e-12)
    balanced = recipe_of(engine, preset="balanced").model_dump(exclude={"preset", "schedule", "sigmas"})
    assert recipe_of(engine, presets, preset="mine").model_dump(exclude={"preset", "schedule", "sigmas"}) == balanced


def test_the_tables_say_what_the_search_did(engine: Engine) -> None:
    recipe = recipe_of(engine)
    fields, ((_, rows), (head, shape)) = calibrate.schedule(pictures(engine, recipe))
    named = [row for row in rows if "downhill" not in row[0] and "result" not in row[0]]
    sweeps = [row for row in rows if "downhill" in row[0]]
    (result,) = [row for row in rows if row[0] == "result"]
    assert [row[1] for row in rows[-3:]] == ["5", "10", "20"]
    assert float(result[3]) == min(float(row[3]) for row in sweeps)
    assert [float(row[3]) for row in named] == sorted(float(row[3]) for row in named)
    assert list(dict.fromkeys(row[0] for row in sweeps)) == [f"downhill from {row[0]}" for row in named[:3]]
    for label in {row[0] for row in sweeps}:
        klubs = [float(row[2]) for row in sweeps if row[0] == label]
        assert klubs == sorted(klubs, reverse=True)
    assert f"{result[3]}, with {named[0][0]}, the best of the named schedules, {named[0][3]}" in fields["evidence"]
    assert head[3:] == ["/ sd15", "/ sdxl", "/ squaredcos"]
    known = parameterization(engine.models["gaussian"]).noise_levels
    for row, published in zip(shape, SCHEDULES["ays"](known, 5, table="sdxl"), strict=False):
        assert float(row[4]) == pytest.approx(float(row[1]) / published, rel=2e-3)


def test_what_goes_on_from_own_levels_is_held_against_a_schedule_with_a_name(engine: Engine) -> None:
    recipe = recipe_of(engine)
    best = recipe_of(engine, num_inference_steps=None, sigmas=recipe.sigmas)
    assert best.schedule == "explicit"
    fields, ((_, rows), _) = calibrate.schedule(pictures(engine, best))
    named = [row for row in rows if "downhill" not in row[0] and "result" not in row[0]]
    assert any(row[0] == "explicit (the recipe's)" for row in named)
    first = next(row for row in named if "explicit" not in row[0])
    assert f"with {first[0]}, the best of the named schedules, {first[3]}; KLUB" in fields["evidence"]
    assert fields["evidence"].endswith(f"there {first[2]}")


def test_the_distance_is_that_of_the_pictures_served(engine: Engine) -> None:
    """Runs by the pipeline itself: the same noise in 5 steps and in the many of the levels."""
    trials = pictures(engine, recipe_of(engine))
    measured = trials.converged(paths=False)
    found = trials.runs("five", measured["latent"])["distance"]
    levels = (*trials.levels[::-1].tolist(), 0.0)
    for i, prompt in enumerate(["a lake", "hills at dawn", "a lake"]):
        few = recipe_of(engine, prompt=prompt, seed=i)
        many = recipe_of(engine, prompt=prompt, seed=i, sampler="dpmpp_2m", sigmas=levels, num_inference_steps=None)
        latents = [made(engine, recipe) for recipe in (few, many)]
        np.testing.assert_array_equal(latents[1], measured["latent"][i])
        rms = np.sqrt([np.mean((latents[0] - latents[1]) ** 2), np.mean(latents[1] ** 2)])
        assert found[i] == pytest.approx(rms[0] / rms[1], rel=1e-12)


def made(engine: Engine, recipe: Recipe) -> Any:
    from service.engines.contract import Ticket

    model, ticket = engine.models[recipe.model], Ticket()
    return develop(engine, recipe, model, encode(engine, recipe, ticket), ticket, Stopwatch(), [])


def test_the_norm_ratios_of_small_steps_are_one(engine: Engine) -> None:
    recipe = recipe_of(engine, schedule="exponential", num_inference_steps=40, guidance_scale=1.0)
    trials = pictures(engine, recipe, levels=400)
    measured = trials.converged(paths=False)
    for few, many in zip(trials.runs("few", measured["latent"])["norms"], measured["norms"], strict=True):
        same = np.interp(np.log(recipe.sigmas[:-1]), np.log(trials.levels), many)
        np.testing.assert_allclose(few / same, 1, atol=0.01)


def test_constants_become_a_preset_and_bring_the_pictures_nearer(tmp_path: Path, engine: Engine) -> None:
    run = darkroom("epsilon", *FIVE, "--sampler", "euler", "--preset", "fast", "-o", "scaled.toml")
    assert run.exit_code == 0, run.output
    rows = {line.split("  ")[0]: line.split()[-3:] for line in run.stdout.split("\n\n")[1].splitlines()[1:]}
    assert float(rows["result"][2]) < float(rows["none"][2])
    preset = load_presets(tmp_path)["scaled"]
    scaling = preset.recipe.epsilon_scaling
    assert scaling is not None
    assert [f"{scaling.scale:.4f}", f"{scaling.slope:.6f}"] == rows["result"][:2]
    recipe = recipe_of(engine, load_presets(tmp_path), preset="scaled")
    assert (recipe.sampler, recipe.schedule, recipe.num_inference_steps) == ("euler", "trailing", 5)
    trials = pictures(engine, recipe.model_copy(update={"epsilon_scaling": None}))
    latents = trials.converged(paths=False)["latent"]
    assert f"{trials.distance('with', latents, epsilon_scaling=scaling):.4f}" == rows["result"][2]
    assert f"{trials.distance('without', latents):.4f}" == rows["none"][2]


@pytest.mark.parametrize(("what", "calls"), [("schedule", 1), ("schedule", 850), ("epsilon", 450)])
def test_an_interrupted_run_continued_gives_the_same_bytes(
    monkeypatch: pytest.MonkeyPatch, what: str, calls: int
) -> None:
    predict = GaussianEngine.predict
    made: list[int] = []

    def counted(self: GaussianEngine, *arguments: Any) -> Any:
        made.append(1)
        if len(made) == limit:
            raise KeyboardInterrupt
        return predict(self, *arguments)

    monkeypatch.setattr(GaussianEngine, "predict", counted)
    limit = 10**9
    assert darkroom(what, *FIVE, "-o", "x.toml").exit_code == 0
    whole, needed = Path("x.toml").read_bytes(), len(made)
    Path("x.toml").unlink()
    limit = len(made) + calls
    assert darkroom(what, *FIVE, "-o", "x.toml").exit_code == 130
    assert not Path("x.toml").exists()
    limit, before = 10**9, len(made)
    assert darkroom(what, *FIVE, "-o", "x.toml").exit_code == 0
    assert Path("x.toml").read_bytes() == whole
    assert not Path("x.toml.partial").exists()
    assert len(made) - before == needed if calls == 1 else len(made) - before < needed - 300  # kept, not made again


def test_ctrl_c_in_the_terminal_is_exit_code_130_and_no_traceback(tmp_path: Path) -> None:
    command = [DARKROOM, "calibrate", "schedule", *SMALL, "--size", "512x512", "--pictures", "100", "-o", "x.toml"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE) as process:
        assert process.stderr
        assert process.stderr.read(1) == b"c"  # the label of the first bar
        process.send_signal(signal.SIGINT)
        assert b"Traceback" not in process.stderr.read()
        assert process.wait(20) == 130
    assert sorted(file.name for file in tmp_path.iterdir()) == ["prompts.txt", "x.toml.partial"]


BAD = {
    "no prompts": (["--prompts", "empty.txt"], "no prompts"),
    "missing prompts": (["--prompts", "nope.txt"], "nope.txt"),
    "binary prompts": (["--prompts", "binary.txt"], "UTF-8"),
    "endless prompts": (["--prompts", "/dev/zero"], "larger than"),
    "a long prompt": (["--prompts", "long.txt"], "prompt 2"),
    "model": (["--model", "nope"], "gaussian"),
    "preset": (["--preset", "nope"], "balanced"),
    "sampler": (["--sampler", "dpmpp_2m_sde"], "draws noise"),
    "recipe": (["--recipe", "cads.json"], "cads"),
    "guidance": (["--recipe", "apg.json"], "apg"),
    "one step": (["--steps", "1"], "2 to 40"),
    "many steps": (["--steps", "41"], "2 to 40"),
    "few pictures": (["--pictures", "1"], "1"),
    "existing": (["-o", "taken.toml"], "exists"),
    "a folder": (["-o", "folder.toml"], "exists"),
    "ending": (["-o", "x.json"], ".toml"),
    "stdout": (["-o", "-"], "name"),
    "name": (["-o", "a b.toml"], "letters"),
    "no folder": (["-o", "no/x.toml"], "no folder"),
    "damaged": (["-o", "damaged.toml"], "damaged"),
    "of another": (["-o", "other.toml"], "another calibration"),
    "text": (["-o", "text.toml"], "damaged"),
}


@pytest.mark.parametrize("case", BAD)
def test_input_that_cannot_be_honoured_is_one_line_and_leaves_nothing(tmp_path: Path, case: str) -> None:
    Path("empty.txt").write_text(" \n\n")
    Path("binary.txt").write_bytes(b"\xff\xfe\x00")
    Path("long.txt").write_text("a\n" + "x" * 2000)
    Path("cads.json").write_text('{"cads": {}}')
    Path("apg.json").write_text('{"guidance_method": "apg"}')
    Path("taken.toml").touch()
    Path("folder.toml").mkdir()
    State(Path("other.toml.partial"), {"what": "else"})
    whole = Path("other.toml.partial").read_bytes()
    Path("damaged.toml.partial").write_bytes(whole[: len(whole) // 2])
    Path("text.toml.partial").write_text("no archive")
    before = sorted(tmp_path.iterdir())
    arguments, words = BAD[case]
    run = darkroom("schedule", *FIVE, "-o", "x.toml", *arguments)
    assert (run.exit_code, run.stdout) == (1 if case == "missing prompts" else 2, ""), run.stderr
    line = run.stderr.strip().splitlines()[-1]
    assert line.startswith("Error: ")
    assert words in line
    assert sorted(tmp_path.iterdir()) == before


def test_a_folder_that_cannot_be_written_is_found_before_anything_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: Path, mode: str = "r", *_: Any, **__: Any) -> Any:
        if "w" in mode:
            raise PermissionError(13, "Permission denied", str(self))
        return original(self, mode)

    original = Path.open
    monkeypatch.setattr(Path, "open", refused)
    run = darkroom("schedule", *FIVE, "-o", "x.toml")
    assert run.exit_code == 1
    assert run.stderr.startswith("Error: ")
    assert "Permission denied" in run.stderr
    assert "converged" not in run.stderr


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"time_shift": {"data_variance": 0.5}}, "time_shift"),
        ({"schedule": "explicit", "sigmas": [100.0, 30.0, 0.0], "num_inference_steps": 2}, "num_inference_steps"),
        ({"sampler": "euler_ancestral"}, "sampler"),
    ],
)
def test_constants_that_could_not_act_are_refused(engine: Engine, fields: dict[str, Any], field: str) -> None:
    recipe = recipe_of(engine, guidance_scale=1.0, **fields)
    preset = load_presets()["balanced"]
    with pytest.raises(InvalidRequest) as caught:
        calibrate.calibrate("epsilon", engine, recipe, preset, PROMPTS, 2, Path("x.toml"))
    assert caught.value.field == field


def test_a_network_trained_on_its_own_steps_is_refused(engine: Engine) -> None:
    preset = load_presets()["balanced"].model_copy(update={"fixed": True})
    with pytest.raises(InvalidRequest, match="its own steps"):
        calibrate.calibrate("schedule", engine, recipe_of(engine), preset, PROMPTS, 2, Path("x.toml"))


def values() -> Iterator[Any]:
    text = st.text(st.characters(codec="utf-8"))
    number = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
    yield text | number | st.booleans()
    yield st.lists(number | text)
    yield st.dictionaries(st.from_regex(r"[a-z_]+", fullmatch=True), number | text)


@given(st.dictionaries(st.from_regex(r"[a-z]+", fullmatch=True), st.one_of(*values())))
def test_toml_says_what_was_meant(recipe: dict[str, Any]) -> None:
    fields = {"title": 'a "quoted" \\ line\nand \x7f another', "levels": [2.0, 1e-05], "recipe": recipe}
    assert tomllib.loads(calibrate.toml(fields)) == fields


def test_a_preset_written_from_a_recipe_is_that_recipe(engine: Engine, tmp_path: Path) -> None:
    """Everything that the base recipe said and that is not for requests alone is still said."""
    chosen = {"sampler": "unipc", "sampler_options": {"variant": "bh1"}, "guidance_interval": [0.5, 9.0]}
    chosen |= {"schedule": "karras", "schedule_options": {"rho": 5.0}, "negative_prompt": 'é "x"'}
    recipe = recipe_of(engine, **chosen)
    preset = load_presets()["balanced"]
    calibrate.calibrate("epsilon", engine, recipe, preset, PROMPTS, 2, tmp_path / "kept.toml")
    again = recipe_of(engine, load_presets(tmp_path), preset="kept")
    scaling = again.epsilon_scaling
    assert again == recipe.model_copy(update={"preset": "kept", "epsilon_scaling": scaling})
    assert isinstance(load_presets(tmp_path)["kept"], Preset)
