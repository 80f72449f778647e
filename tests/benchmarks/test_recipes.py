"""The benchmark of recipes on the closed-form engine: what it compares, what it remembers, what it concludes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from benchmarks.recipes import claims, methods
from benchmarks.recipes.__main__ import main
from benchmarks.recipes.measure import COPIES, REFERENCES, draw
from benchmarks.recipes.methods import CALLS, CONVERGED, FEW, Method
from service.engines.contract import Ticket
from service.engines.gaussian import GaussianEngine
from service.pipeline import generate
from service.recipe import load_presets
from training import config, judge
from training.measures import Estimate

ONLY = ("ays", "2M, linspace")


@pytest.fixture(scope="module")
def engine() -> GaussianEngine:
    return GaussianEngine()


@pytest.fixture(scope="module")
def found(engine: GaussianEngine) -> dict[str, Method]:
    return {method.name: method for method in methods.methods(engine)}


def test_every_preset_for_the_model_is_there_at_its_own_and_at_all_calls(
    engine: GaussianEngine, found: dict[str, Method]
) -> None:
    (model,) = engine.models.values()
    assert {name for name in found if found[name].preset} == {p.name for p in load_presets().values() if p.suits(model)}
    for method in found.values():
        for calls, recipe in method.recipes.items():
            assert len(recipe.calls(model)) == (calls if recipe.sampler != "heun" else calls - 1), (method.name, calls)
        if method.preset and "sigmas" not in load_presets()[method.name].recipe.given():
            assert set(method.recipes) == {*CALLS, method.chosen}


def test_second_order_samplers_get_the_steps_that_fit(engine: GaussianEngine) -> None:
    """Heun makes two calls a step but the last: n steps, 2 n - 1 calls."""
    recipe = methods.fitted(engine, {"preset": "balanced", "sampler": "heun"}, 10)
    assert recipe is not None
    assert (recipe.num_inference_steps, methods.calls_of(engine, recipe)) == (5, 9)


def test_presets_that_differ_in_their_calls_alone_are_drawn_once(found: dict[str, Method]) -> None:
    fast, balanced = found["fast"], found["balanced"]
    assert [methods.key(fast.recipes[calls]) for calls in FEW] == [
        methods.key(balanced.recipes[calls]) for calls in FEW
    ]
    names = [method.name for method in methods.distinct(found.values())]
    assert "balanced" in names
    assert "fast" not in names


def test_errors_are_defined_for_solvers_of_the_same_ode(found: dict[str, Method]) -> None:
    exact = found[CONVERGED].recipes[200]
    defined = {
        name for name, method in found.items() if 10 in method.recipes and methods.solves(method.recipes[10], exact)
    }
    assert {"ays", "balanced", "fast", "eps-scaled", "2M, karras", "Euler, time shift"} <= defined
    assert not {methods.STOCHASTIC, "diverse", "balanced, guided everywhere", "balanced, never guided"} & defined


def test_every_claim_names_methods_that_exist(found: dict[str, Method]) -> None:
    for claim in claims.SCHEDULES + claims.GUIDANCE + claims.SAMPLERS:
        for test in claim.tests:
            assert test.calls in found[test.method].recipes
            assert test.calls in found[test.against].recipes


@pytest.mark.parametrize(
    ("interval", "sense", "expected"),
    [
        ((-2, -1), "less", "holds"),
        ((1, 2), "less", "the opposite holds"),
        ((-1, 1), "less", "not distinguishable"),
        ((1, 2), "more", "holds"),
        ((-2, -1), "more", "the opposite holds"),
        ((-1, 1), "not less", "no difference found"),
        ((-2, -1), "not less", "the opposite holds"),
        ((1, 2), "not less", "holds"),
    ],
)
def test_verdicts_follow_from_the_interval(interval: tuple[float, float], sense: Any, expected: str) -> None:
    assert claims.verdict(Estimate(sum(interval) / 2, *interval), sense) == expected


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        (["holds", "no difference found"], "Holds here."),
        (
            ["holds", "the opposite holds", "not distinguishable"],
            "Holds here in 1 of 3 comparisons; the opposite in 1, 1 undecided.",
        ),
        (["not distinguishable", "the opposite holds"], "Does not hold here."),
        (["not distinguishable"], "Not seen here: nothing to be told apart."),
    ],
)
def test_a_claim_is_summed_up(verdicts: list[str], expected: str) -> None:
    assert claims.summary(verdicts) == expected


@pytest.mark.parametrize("name", ["ays", methods.STOCHASTIC, "Euler, eps / 1.017"])
def test_the_latent_is_what_the_pixels_were_decoded_from(
    engine: GaussianEngine, found: dict[str, Method], name: str
) -> None:
    recipe = found[name].recipes[5]
    drawn = draw(engine, recipe)
    expected = generate(engine, recipe, Ticket()).pixels
    np.testing.assert_array_equal(drawn.pixels, expected)
    decoded = engine.decode(recipe.model, drawn.latent.astype(np.float32), Ticket())
    np.testing.assert_allclose(drawn.pixels, (decoded.transpose(1, 2, 0) / 2 + 0.5) * 255, atol=0.51)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration whose judge knows nothing."""
    folder = tmp_path_factory.mktemp("judge")
    torch.manual_seed(0)
    torch.save(judge.Judge().state_dict(), folder / "judge.pt")
    text = config.DEFAULT.read_text().replace('runs = "runs/postcard"', f'runs = "{folder}"')
    (folder / "tiny.toml").write_text(text)
    return folder / "tiny.toml"


@pytest.fixture(scope="module")
def folder(settings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight pictures by each of a few methods, drawn and reported by the command."""
    target = tmp_path_factory.mktemp("recipes")
    run(settings, target)
    return target


def run(settings: Path, folder: Path, *more: str) -> str:
    asked = [word for name in ONLY for word in ("--only", name)]
    options = ["--pictures", "8", "--folder", str(folder), "--config", str(settings), *asked, *more]
    result = CliRunner().invoke(main, options, env={"DARKROOM_ENGINE": "gaussian"}, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def rows(folder: Path) -> list[dict[str, Any]]:
    return [dict(np.load(file)) for file in sorted(folder.glob("*/prompt-*.npz"))]


def test_the_command_draws_and_reports(folder: Path) -> None:
    text = (folder / "recipes.md").read_text()
    assert "4 held-out prompts, 2 pictures of each" in text
    assert "- ays against 2M, linspace, 10 calls: error" in text
    assert [name for name in ONLY if f"| {name} | 10 |" not in text] == []
    for name in ("recipes-calls.png", "recipes-pareto.png"):
        assert 0 < (folder / name).stat().st_size < 150_000


def test_errors_fall_with_the_number_of_calls(folder: Path, found: dict[str, Method]) -> None:
    """The rows hold the latents; against the exact engine second order shows."""
    converged = methods.key(found[CONVERGED].recipes[200])
    errors = [
        np.mean(
            [
                (row[methods.key(found["2M, linspace"].recipes[n])]["latent"] - row[converged]["latent"]) ** 2
                for row in rows(folder)
            ]
        )
        for n in (5, 20)
    ]
    assert errors[1] < errors[0] / 4


def test_copies_and_references_are_all_different_pictures(folder: Path) -> None:
    for row in rows(folder):
        assert len(np.unique(row["renders"]["features"], axis=0)) == COPIES + REFERENCES
        assert all(
            len(np.unique(made["features"], axis=0)) == COPIES for name, made in row.items() if name != "renders"
        )


def test_a_second_run_draws_nothing_and_keeps_every_byte(settings: Path, folder: Path) -> None:
    before = {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in folder.glob("*/prompt-*.npz")}
    assert len(before) == 4
    run(settings, folder)
    assert before == {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in folder.glob("*/prompt-*.npz")}


def test_a_run_that_was_stopped_goes_on_with_the_same_pictures(settings: Path, folder: Path) -> None:
    whole = rows(folder)
    last = max(folder.glob("*/prompt-*.npz"))
    dropped = next(name for name in whole[-1] if name != "renders")
    np.savez(last, **{name: row for name, row in whole[-1].items() if name != dropped})
    run(settings, folder)
    again = rows(folder)[-1][dropped]
    np.testing.assert_array_equal(again["latent"], whole[-1][dropped]["latent"])
    np.testing.assert_allclose(again["features"], whole[-1][dropped]["features"], rtol=1e-5, atol=1e-6)


def test_no_time_means_no_prompt_after_the_first(settings: Path, tmp_path: Path) -> None:
    options = [
        "--pictures",
        "8",
        "--minutes",
        "0",
        "--folder",
        str(tmp_path),
        "--config",
        str(settings),
        "--only",
        "ays",
    ]
    result = CliRunner().invoke(main, options, env={"DARKROOM_ENGINE": "gaussian"})
    assert "4 are needed" in result.output
    assert len(rows(tmp_path)) <= 1


def test_an_unknown_method_is_named_with_the_known_ones(settings: Path, tmp_path: Path) -> None:
    options = ["--only", "nothing", "--folder", str(tmp_path), "--config", str(settings)]
    result = CliRunner().invoke(main, options, env={"DARKROOM_ENGINE": "gaussian"})
    assert result.exit_code == 2
    assert "'nothing'" in result.output
    assert "balanced" in result.output


def test_a_missing_judge_is_named(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(config.DEFAULT.read_text().replace('"runs/postcard"', f'"{tmp_path}"'))
    result = CliRunner().invoke(main, ["--config", str(tmp_path / "tiny.toml")])
    assert result.exit_code == 1
    assert f"{tmp_path / 'judge.pt'} is missing" in result.output
