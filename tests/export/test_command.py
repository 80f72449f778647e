"""python -m export: what it writes, and what it says when it cannot."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from export import families
from export.__main__ import main
from export.checkpoint import Checkpoint
from tests.conftest import Exported


def export(*arguments: object) -> Result:
    return CliRunner().invoke(main, [*map(str, arguments)])


@pytest.fixture
def checkpoint(exported: Exported, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported.checkpoint, tmp_path / "checkpoint"))


def edit(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_a_model_is_these_files_and_replaces_what_was_there(exported) -> None:
    found = {str(file.relative_to(exported.repository)) for file in exported.repository.rglob("*") if file.is_file()}
    entries = ("tiny_text_encoder", "tiny_unet", "tiny_vae_decoder")
    files = ("config.pbtxt", "1/model.onnx", "1/model.py")
    description = {"tiny_unet/description/model.json", "tiny_unet/description/tokenizer.json"}
    assert found == {f"{entry}/{file}" for entry in entries for file in files} | description


def unset(name: str) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "model_index.json", **{name: [None, None]})


def lose_a_parameter(folder: Path) -> None:
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    del state["conv_in.weight"]
    save_file(state, file)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "model_index.json").unlink(), "has no model_index.json"),
        (lambda folder: (folder / "model_index.json").write_text("{"), "model_index.json is not JSON"),
        (lambda folder: (folder / "model_index.json").write_text("[]"), "is not a JSON object"),
        (lambda folder: edit(folder / "model_index.json", _class_name="Magic"), "Magic is not supported, only Stable"),
        (unset("unet"), "names no unet"),
        (lambda folder: edit(folder / "model_index.json", unet=["os", "system"]), "names no unet"),
        (
            lambda folder: edit(folder / "model_index.json", vae=["diffusers", "VQModel"]),
            "vae: VQModel is not supported",
        ),
        (lambda folder: shutil.rmtree(folder / "text_encoder"), "text_encoder: the folder"),
        (lambda folder: (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink(), "vae: "),
        (lambda folder: os.truncate(folder / "unet" / "diffusion_pytorch_model.safetensors", 1000), "unet: "),
        (lose_a_parameter, "unet lacks 1 parameters, first conv_in.weight"),
        (lambda folder: edit(folder / "scheduler" / "scheduler_config.json", prediction_type="magic"), "scheduler: "),
    ],
)
def test_a_broken_checkpoint_is_refused_by_name(checkpoint, tmp_path, damage, message) -> None:
    damage(checkpoint)
    result = export(checkpoint, "--out", tmp_path / "repository")
    assert result.exit_code == 1
    assert message in result.output
    assert "Traceback" not in result.output
    assert not (tmp_path / "repository").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "16"], "16 is not a size such as 512x768"),
        (["--size", "16x18"], "size 16x18: sides must be multiples of 4"),
        (["--size", "0x16"], "size 0x16: sides must be multiples of 4"),
        (["--name", "../up"], "../up is not made of"),
        (["--name", "My Model"], "My Model is not made of"),
        (["--lora", "missing.safetensors"], "missing.safetensors"),
        (["--lora", "file=much"], "much is not a number"),
        (["--precision", "int8"], "int8"),
        (["--colour", "red"], "No such option"),
    ],
)
def test_wrong_options_are_refused_by_name(exported, tmp_path, arguments, message) -> None:
    result = export(exported.checkpoint, "--out", tmp_path / "repository", *arguments)
    assert result.exit_code != 0
    assert message in result.output
    assert not (tmp_path / "repository").exists()


def test_weights_of_a_variant_in_parts_are_those_of_the_plain_file(exported, tmp_path) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(exported.checkpoint, dtype=torch.float16)
    pipeline.save_pretrained(tmp_path, variant="fp16", max_shard_size="20KB")
    assert len(list((tmp_path / "unet").glob("diffusion_pytorch_model.fp16-*.safetensors"))) > 1
    plain, found = (families.load(Checkpoint(folder)) for folder in (exported.checkpoint, tmp_path))
    for ours, theirs in zip(found.networks, plain.networks, strict=True):
        state = theirs.state_dict()
        assert state.keys() == ours.state_dict().keys()
        assert all(torch.equal(tensor, state[name]) for name, tensor in ours.state_dict().items())


def test_help_lists_both_commands() -> None:
    result = export("--help")
    assert result.exit_code == 0
    assert "write" in result.output
    assert "verify" in result.output
