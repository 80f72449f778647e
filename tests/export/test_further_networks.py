"""Networks beside the denoiser: exported as those that a recipe may name, and served as torch computes them."""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from diffusers import UNet2DConditionModel

from export.__main__ import main
from export.weights import rebuild
from service.engines.contract import Conditioning, ModelDescription, Ticket, load_descriptions
from service.engines.embedded import EmbeddedEngine
from service.engines.runtimes import OpenVino
from service.pipeline import generate
from service.recipe import Overrides, load_presets, resolve
from tests.conftest import Exported

ROLES = ("unet_initial", "unet_student")


def export(*arguments: object) -> Result:
    return CliRunner().invoke(main, [*map(str, arguments)])


def another(checkpoint: Path, role: str, **config: object) -> UNet2DConditionModel:
    """A UNet beside the checkpoint's own, as diffusers writes it, with other weights and the parameters as exported."""
    torch.manual_seed(len(role))
    unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(checkpoint / "unet") | config)
    unet.save_pretrained(checkpoint / role)
    return unet.half().float().eval()


@dataclass(frozen=True)
class Further:
    """A checkpoint with further networks, what it became, and the modules themselves."""

    checkpoint: Path
    repository: Path
    model: ModelDescription
    modules: Mapping[str, UNet2DConditionModel]


@pytest.fixture(scope="module")
def further(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Further:
    folder = tmp_path_factory.mktemp("further")
    checkpoint = Path(shutil.copytree(exported.checkpoint, folder / "checkpoint"))
    modules = {role: another(checkpoint, role) for role in ROLES}
    result = export(checkpoint, "--out", folder / "repository", "--name", "tiny", "--size", "16x16")
    assert result.exit_code == 0, result.output
    return Further(checkpoint, folder / "repository", load_descriptions(folder / "repository")["tiny"][0], modules)


@pytest.fixture(scope="module")
def engine(further: Further) -> Iterator[EmbeddedEngine]:
    made = EmbeddedEngine(further.repository, OpenVino("fp32", 1, further.repository / ".cache"))
    yield made
    made.close()


def test_they_are_described_as_what_a_recipe_may_name(further: Further) -> None:
    model = further.model
    assert model.choices == {
        "network": ["unet", "unet_student"],
        "initial_network": ["unet_initial"],
        "residual_network": [],
    }
    assert [model.networks[role].entry for role in ROLES] == ["tiny_unet_initial", "tiny_unet_student"]
    for role in ROLES:
        assert model.networks[role].inputs == model.networks["unet"].inputs


@pytest.mark.parametrize("role", ROLES)
def test_served_they_equal_torch(engine: EmbeddedEngine, further: Further, role: str) -> None:
    rng = np.random.default_rng(0)
    x, t = rng.standard_normal((2, 4, 8, 4)).astype(np.float32), np.array([7.0, 900.0], np.float32)
    text = rng.standard_normal((2, 77, 32)).astype(np.float32)
    rows = [Conditioning({"encoder_hidden_states": row}, "") for row in text]
    with torch.no_grad():
        expected = further.modules[role](*map(torch.from_numpy, (x, t, text))).sample.numpy()
    np.testing.assert_allclose(engine.predict("tiny", role, x, t, rows, Ticket()), expected, atol=2e-5)


def test_a_picture_by_the_student_is_another_one(engine: EmbeddedEngine) -> None:
    def picture(network: str) -> np.ndarray:
        wanted = Overrides(prompt="a cube", seed=7, num_inference_steps=3, network=network)
        recipe = resolve(wanted, load_presets(), engine.models, engine.name, engine.precision)
        assert recipe.network == network
        return generate(engine, recipe, Ticket()).pixels

    assert not np.array_equal(picture("unet"), picture("unet_student"))


def test_they_are_verified_and_no_part_of_the_pipeline(further: Further) -> None:
    result = export("verify", further.checkpoint, further.repository, "--name", "tiny")
    assert result.exit_code == 0, result.output
    assert all(f"{role} out_sample" in result.output for role in ROLES)
    assert type(rebuild(further.repository, "tiny")).__name__ == "StableDiffusionPipeline"


def test_what_was_not_exported_cannot_be_verified(further: Further, exported: Exported) -> None:
    result = export("verify", further.checkpoint, exported.repository, "--name", "tiny")
    assert result.exit_code == 1
    assert "tiny was exported without unet_initial: export it again" in result.output


@pytest.mark.parametrize(
    ("role", "config", "message"),
    [
        ("unet_student", {"cross_attention_dim": 16}, "unet_student takes other latents or another conditioning than"),
        ("unet_student", {"in_channels": 8}, "unet_student takes other latents or another conditioning than the unet"),
        ("unet_student", {"out_channels": 8}, "unet_student takes other latents or another conditioning than the unet"),
        ("unet_My Own", {}, "unet_My Own: a network is named in a-z, 0-9 and underscores"),
    ],
)
def test_one_of_another_kind_is_refused(exported: Exported, tmp_path: Path, role, config, message) -> None:
    checkpoint = Path(shutil.copytree(exported.checkpoint, tmp_path / "checkpoint"))
    another(checkpoint, role, **config)
    result = export(checkpoint, "--out", tmp_path / "repository")
    assert result.exit_code == 1
    assert message in result.output
    assert not (tmp_path / "repository").exists()


def test_an_empty_folder_is_refused(exported: Exported, tmp_path: Path) -> None:
    checkpoint = Path(shutil.copytree(exported.checkpoint, tmp_path / "checkpoint"))
    (checkpoint / "unet_student").mkdir()
    result = export(checkpoint, "--out", tmp_path / "repository")
    assert result.exit_code == 1
    assert "unet_student: " in result.output
