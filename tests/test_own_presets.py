"""An operator's own presets: a folder of TOML files beside the built-in ones; and presets that bring their levels."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from fastapi.testclient import TestClient

from service.__main__ import main
from service.app import create_app
from service.diffusion.schedules import AYS
from service.errors import InvalidRequest
from service.fields import Overrides, Preset, Recipe, load_presets, parameterization
from service.recipe import resolve
from service.settings import Settings
from tests.recipes import FAMILY, SD15

HEAD = 'title = "Mine"\ndescription = "What I like."\nevidence = "measured: by eye"\n'
MINE = HEAD + '[recipe]\nsampler = "euler"\nschedule = "karras"\nnum_inference_steps = 4\n'
PUBLISHED = parameterization(SD15).noise_levels[list(AYS["sd15"])]
ALIGNED = Preset(
    name="aligned",
    title="",
    description="",
    evidence="",
    levels=tuple(PUBLISHED.tolist()),
    recipe=Overrides(sampler="euler", num_inference_steps=10),
)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DARKROOM_PRESETS_DIR", str(tmp_path))
    (tmp_path / "mine.toml").write_text(MINE)
    (tmp_path / "notes.txt").write_text("no preset")
    return tmp_path


def test_own_presets_stand_beside_the_built_in_ones(own: Path) -> None:
    assert load_presets(own).keys() == {*load_presets(), "mine"}
    assert "mine" not in load_presets()


@pytest.mark.usefixtures("own")
def test_the_command_line_and_the_service_offer_them() -> None:
    listed = json.loads(CliRunner().invoke(main, ["presets", "--json"]).stdout)
    assert "mine" in {preset["name"] for preset in listed}
    explained = CliRunner().invoke(main, ["explain", "--engine", "gaussian", "--preset", "mine", "--json"])
    assert json.loads(explained.stdout)["recipe"]["schedule"] == "karras"
    with TestClient(create_app(Settings(engine="gaussian"))) as client:
        assert "mine" in {card["id"] for card in client.get("/v1/presets").json()["data"]}
        answer = client.post("/v1/explain", json={"preset": "mine"}).json()
    assert [call["nfe"] for call in answer["steps"]] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("balanced", MINE, "built-in"),
        ("bad", "title = ", "bad.toml"),
        ("bad", HEAD, "recipe"),
        ("bad", MINE.replace("Mine", "\\ud800"), "bad.toml"),
        ("bad", MINE + "colour = 3", "colour"),
        ("bad", MINE + "guidance_scale = nan", "guidance_scale"),
        ("bad", MINE + "seed = 7", "seed"),
        ("bad", 'name = "x"\n' + MINE, "name"),
        ("bad", "levels = [3.0, 2.0]\n" + MINE, "levels"),
        ("bad", "levels = [3.0]\n" + HEAD + "[recipe]", "levels"),
        ("bad", "levels = [3.0, 3.0]\n" + HEAD + "[recipe]", "levels"),
        ("bad", "levels = [3.0, 0.0]\n" + HEAD + "[recipe]", "levels"),
        ("bad", "levels = [3.0, 1.0]\nfixed = true\n" + HEAD + "[recipe]", "fixed"),
        ("bad", "levels = [inf, 1.0]\n" + HEAD + "[recipe]", "levels"),
    ],
)
@pytest.mark.parametrize("command", [["presets"], ["serve", "--engine", "gaussian", "--port", "0"]], ids=" ".join)
def test_a_file_that_is_no_preset_is_one_line_that_names_it(
    own: Path, command: list[str], name: str, text: str, words: str
) -> None:
    (own / f"{name}.toml").write_text(text)
    run = CliRunner().invoke(main, command)
    assert (run.exit_code, run.stdout) == (2, "")
    assert run.stderr.startswith("Error: ")
    assert f"{name}.toml" in run.stderr
    assert words in run.stderr


def test_bytes_that_are_no_text_and_a_folder_that_is_none_are_named(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (own / "bad.toml").write_bytes(b"\xff")
    with pytest.raises(InvalidRequest, match=r"bad\.toml"):
        load_presets(own)
    monkeypatch.setenv("DARKROOM_PRESETS_DIR", str(own / "nowhere"))
    run = CliRunner().invoke(main, ["presets"])
    assert run.exit_code == 2
    assert "nowhere" in run.stderr


def resolved(**fields: object) -> Recipe:
    body = {"prompt": "a", "seed": 0, "model": "sd15"} | fields
    return resolve(Overrides.parse(body), {**load_presets(), "aligned": ALIGNED}, FAMILY, "gaussian", "fp32")


@pytest.mark.parametrize("steps", [1, 7, 10, 20, 33])
def test_levels_serve_every_count_of_steps_as_the_published_tables_do(steps: int) -> None:
    published = resolved(schedule="ays", schedule_options={"table": "sd15"}, num_inference_steps=steps)
    own = resolved(preset="aligned", num_inference_steps=steps)
    np.testing.assert_allclose(own.sigmas, published.sigmas, rtol=1e-12)
    assert resolved(**own.model_dump(mode="json")) == own


def test_levels_give_way_to_what_a_request_says_of_its_schedule() -> None:
    assert resolved(preset="aligned").sigmas == pytest.approx((*PUBLISHED[:-1], 0.0))
    assert resolved(preset="aligned", schedule="karras").schedule == "karras"
    assert resolved(preset="aligned", sigmas=[9.0, 1.0, 0.0]).sigmas == (9.0, 1.0, 0.0)
    with pytest.raises(InvalidRequest, match="more than the 200"):
        resolved(preset="aligned", num_inference_steps=10**9)
