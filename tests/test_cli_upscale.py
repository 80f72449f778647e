"""Larger pictures from the command line."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.images import recipe_of
from tests.test_cli import SMALL, complaint, darkroom

ENGINE = ["--engine", "gaussian"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DARKROOM_CACHE_DIR", str(tmp_path / "cache"))
    assert darkroom("generate", "x", "-o", "small.png", *SMALL).exit_code == 0
    return tmp_path


def test_a_picture_is_enlarged_as_the_recipe_would(folder: Path) -> None:
    with Image.open("small.png") as small:
        expected = np.asarray(small.resize((256, 256), Image.Resampling.LANCZOS))
    run = darkroom("upscale", "small.png", "-o", "large.png", "--method", "lanczos", *ENGINE)
    assert run.exit_code == 0, run.output
    with Image.open("large.png") as large:
        np.testing.assert_array_equal(np.asarray(large), expected)
    (folder / "recipe.json").write_text(json.dumps({"upscale": {"factor": 4, "method": "lanczos"}}))
    assert darkroom("generate", "x", "-o", "direct.png", "--recipe", "recipe.json", *SMALL).exit_code == 0
    with Image.open("direct.png") as direct:
        np.testing.assert_array_equal(np.asarray(direct), expected)


def test_the_option_is_the_field_and_every_format_and_stdout_take_it() -> None:
    for name in ("large.png", "large.webp"):
        assert darkroom("generate", "x", "-o", name, "--upscale", "4", *SMALL).exit_code == 0
        recipe = recipe_of(Path(name).read_bytes())
        assert (recipe["upscale"]["factor"], recipe["upscale"]["method"]) == (4, "network")
    assert darkroom("generate", "x", "-o", "-", "--upscale", "4", *SMALL).stdout_bytes == Path("large.png").read_bytes()
    assert sorted(path.suffix for path in Path().iterdir()) == ["", ".png", ".png", ".webp"]


def test_explain_states_the_calls_of_the_upsampler() -> None:
    run = darkroom("explain", "x", "--upscale", "16", "--json", *SMALL)
    passes = json.loads(run.stdout)["upscale"]
    assert [(each["width"], each["blocks"]) for each in passes] == [(256, 64), (1024, 1024)]
    assert str(passes[1]["calls"]) in darkroom("explain", "x", "--upscale", "16", *SMALL).stdout


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (["upscale", "small.png", "-o", "l.png", "--factor", "5"], 2, "factor"),
        (["upscale", "small.png", "-o", "l.png", "--method", "best"], 2, "method"),
        (["upscale", "small.png", "-o", "l.jpg"], 2, ".png"),
        (["upscale", "text.png", "-o", "l.png"], 2, "cannot be read"),
        (["generate", "x", "-o", "l.png", "--upscale", "3"], 2, "upscale.factor"),
    ],
)
def test_refusals_are_one_line_and_leave_no_file(folder: Path, arguments: list[str], code: int, word: str) -> None:
    (folder / "text.png").write_text("<svg/>")
    assert word in complaint(darkroom(*arguments, *ENGINE), code)
    assert not list(folder.glob("l.*"))


def test_what_was_there_stays_where_the_work_fails(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (folder / "small.png").read_bytes()
    monkeypatch.setattr("service.upscaling.lanczos.strip", lambda *_: np.empty((1, 256, 3), np.uint8))
    run = darkroom("upscale", "small.png", "-o", "small.png", "--method", "lanczos", *ENGINE)
    assert isinstance(run.exception, ValueError)  # rows are missing
    assert (folder / "small.png").read_bytes() == before
    assert not list(folder.glob("*.partial"))
