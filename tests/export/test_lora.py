"""Merged adapters compute what the adapter beside the layer computes."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file

from export import families
from export.__main__ import main
from export.checkpoint import Checkpoint
from export.lora import Lora
from service.engines.contract import Ticket, load_descriptions
from service.engines.embedded import EmbeddedEngine
from service.engines.runtimes import OpenVino
from service.errors import InvalidRequest
from tests.conftest import Exported

RANK, ALPHA, SCALE = 4, 6.0, 0.5
ATTENTION = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
CONVOLUTION = "conv_in"
TEXT = "encoder.layers.1.self_attn.q_proj"


def factors(layer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Random down and up of a linear layer or a convolution."""
    weight = layer.weight
    down = torch.randn(RANK, *weight.shape[1:]) * 0.3
    up = torch.randn(weight.shape[0], RANK, *(1 for _ in weight.shape[2:])) * 0.3
    return down, up


def beside(layer: Any, down: torch.Tensor, up: torch.Tensor, strength: float) -> None:
    """Run the adapter next to the layer."""
    operation = torch.nn.functional.linear
    if isinstance(layer, torch.nn.Conv2d):

        def operation(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.conv2d(x, w, padding="same")

    layer.register_forward_hook(lambda _, inputs, output: output + strength * operation(operation(inputs[0], down), up))


@pytest.fixture
def adapted(exported: Exported) -> tuple[families.Model, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The original model with adapters beside three layers, and their factors by component."""
    torch.manual_seed(1)
    model = families.load(Checkpoint(exported.checkpoint, torch.float32))
    found: dict[str, dict[str, torch.Tensor]] = {"unet": {}, "text_encoder": {}}
    for component, network, path in (
        ("unet", model.denoiser, ATTENTION),
        ("unet", model.denoiser, CONVOLUTION),
        ("text_encoder", model.text_encoder, TEXT),
    ):
        layer = network.module.get_submodule(path)
        down, up = factors(layer)
        beside(layer, down, up, SCALE * ALPHA / RANK)
        found[component] |= {f"{path}.lora_A.weight": down, f"{path}.lora_B.weight": up}
    return model, found["unet"], found["text_encoder"]


def same(expected: families.Model, merged: families.Model) -> None:
    for ours, theirs in ((merged.denoiser, expected.denoiser), (merged.text_encoder, expected.text_encoder)):
        inputs = theirs.example(2, 2, 3)
        torch.testing.assert_close(ours(*inputs), theirs(*inputs), atol=1e-5, rtol=1e-5)


def test_a_file_written_by_diffusers(exported, adapted, tmp_path) -> None:
    expected, unet, text_encoder = adapted
    config = {"r": RANK, "lora_alpha": ALPHA}
    StableDiffusionPipeline.save_lora_weights(
        tmp_path, unet, text_encoder, unet_lora_adapter_metadata=config, text_encoder_lora_adapter_metadata=config
    )
    (file,) = tmp_path.glob("*.safetensors")
    same(expected, families.load(Checkpoint(exported.checkpoint, torch.float32, [Lora(file, SCALE)])))


def test_a_file_of_the_older_format(exported, adapted, tmp_path) -> None:
    expected, unet, text_encoder = adapted
    older = {}
    for prefix, part in (("unet", unet), ("text_encoder.text_model", text_encoder)):
        for key, tensor in part.items():
            path, _, factor = key.removesuffix(".weight").rpartition(".")
            older[f"{prefix}.{path}.lora.{'down' if factor == 'lora_A' else 'up'}.weight"] = tensor
            older[f"{prefix}.{path}.alpha"] = torch.tensor(ALPHA)
    save_file(older, tmp_path / "older.safetensors")
    merged = families.load(
        Checkpoint(exported.checkpoint, torch.float32, [Lora(tmp_path / "older.safetensors", SCALE)])
    )
    same(expected, merged)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"unet.nowhere.lora_A.weight": (4, 4), "unet.nowhere.lora_B.weight": (4, 4)}, "unet.nowhere is no layer"),
        ({"unet.conv_in.lora_A.weight": (4, 4, 3, 3)}, "unet.conv_in is no layer with both factors"),
        ({"unet.conv_in.lora_A.weight": (4, 3), "unet.conv_in.lora_B.weight": (4, 4)}, "unet.conv_in does not fit"),
        ({"prior.a.lora_A.weight": (4, 4), "prior.a.lora_B.weight": (4, 4)}, "the model has no prior.a"),
        ({"lora_unet_conv_in.lora_down.weight": (4, 4)}, "lora_unet_conv_in.lora_down.weight is no LoRA factor"),
    ],
)
def test_what_cannot_be_merged_is_named(exported, tmp_path, tensors, message) -> None:
    save_file({key: torch.ones(shape) for key, shape in tensors.items()}, tmp_path / "lora.safetensors")
    with pytest.raises(InvalidRequest, match=message) as caught:
        families.load(Checkpoint(exported.checkpoint, loras=[Lora(tmp_path / "lora.safetensors")]))
    assert caught.value.field == "lora"


def test_a_file_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not safetensors")
    for file in (tmp_path / "text", tmp_path / "missing"):
        with pytest.raises(InvalidRequest, match=str(file)):
            Lora(file)


def write_lora(file: Path, **layers: Any) -> Path:
    """An adapter file for some layers, by their full paths."""
    tensors = {}
    for path, layer in layers.items():
        down, up = factors(layer)
        tensors |= {f"{path}.lora_A.weight": down, f"{path}.lora_B.weight": up}
    save_file(tensors, file)
    return file


def test_rank_stabilised_adapters(exported, tmp_path) -> None:
    torch.manual_seed(2)
    expected = families.load(Checkpoint(exported.checkpoint, torch.float32))
    layer = expected.denoiser.module.get_submodule(ATTENTION)
    down, up = factors(layer)
    beside(layer, down, up, SCALE * ALPHA / RANK**0.5)
    config = {"r": RANK, "lora_alpha": ALPHA, "use_rslora": True}
    StableDiffusionPipeline.save_lora_weights(
        tmp_path,
        {f"{ATTENTION}.lora_A.weight": down, f"{ATTENTION}.lora_B.weight": up},
        unet_lora_adapter_metadata=config,
    )
    (file,) = tmp_path.glob("*.safetensors")
    same(expected, families.load(Checkpoint(exported.checkpoint, torch.float32, [Lora(file, SCALE)])))


def export(checkpoint: Path, repository: Path, *options: object) -> Result:
    arguments = [checkpoint, "--out", repository, "--size", "16x16", *options]
    return CliRunner().invoke(main, [*map(str, arguments)])


@pytest.fixture
def both(exported, tmp_path) -> tuple[Path, families.Model]:
    """A repository with the tiny model and a variant with two adapters; the original with both beside its layers."""
    torch.manual_seed(3)
    repository = Path(shutil.copytree(exported.repository, tmp_path / "repository"))
    expected = families.load(Checkpoint(exported.checkpoint))
    files = []
    for index, (path, scale) in enumerate(((ATTENTION, 1.0), (CONVOLUTION, 0.5))):
        layer = expected.denoiser.module.get_submodule(path)
        down, up = factors(layer)
        beside(layer, down, up, scale)
        files.append(tmp_path / f"{index}.safetensors")
        save_file({f"unet.{path}.lora_A.weight": down, f"unet.{path}.lora_B.weight": up}, files[-1])
    loras = ("--lora", files[0], "--lora", f"{files[1]}=0.5")
    result = export(exported.checkpoint, repository, "--name", "tiny-red", *loras)
    assert result.exit_code == 0, result.output
    return repository, expected


def test_a_variant_is_a_model_of_its_own_and_shares_what_is_equal(both, tmp_path) -> None:
    repository, expected = both
    models = {name: model for name, (model, _) in load_descriptions(repository).items()}
    assert set(models) == {"tiny", "tiny-red"}
    entries = {role: network.entry for role, network in models["tiny-red"].networks.items()}
    assert entries == {
        "text_encoder": "tiny_text_encoder", "vae_decoder": "tiny_vae_decoder", "unet": "tiny-red_unet"
    }  # fmt: skip
    assert {path.name for path in repository.iterdir()} == {*entries.values(), "tiny_unet"}
    engine = EmbeddedEngine(repository, OpenVino("fp32", 2, tmp_path / "cache"))
    assert len({id(source) for source in engine._sources.values()}) == 4
    row = engine.encode_text("tiny-red", engine.tokenize("tiny-red", "a cube"), Ticket())
    x, t = np.random.default_rng(0).standard_normal((1, 4, 8, 8)), np.array([500.0])
    found, plain = (engine.predict(name, "unet", x, t, [row], Ticket()) for name in ("tiny-red", "tiny"))
    text = torch.from_numpy(np.array(row.arrays["encoder_hidden_states"]))[None]
    adapted = expected.denoiser(torch.from_numpy(x).float(), torch.from_numpy(t).float(), text).numpy()
    scale = abs(adapted).max()
    assert abs(found - adapted).max() < 2e-3 * scale, "fp16 is how the merged weights are stored"
    assert abs(plain - adapted).max() > 2e-2 * scale
    engine.close()


def test_a_shared_network_is_neither_replaced_nor_removed(both, exported, tmp_path) -> None:
    checkpoint, (repository, _) = exported.checkpoint, both
    layer = families.load(Checkpoint(checkpoint)).text_encoder.module.get_submodule(TEXT)
    file = write_lora(tmp_path / "text.safetensors", **{f"text_encoder.{TEXT}": layer})
    refused = export(checkpoint, repository, "--name", "tiny", "--lora", file)
    assert refused.exit_code == 1
    assert "tiny_text_encoder is shared with tiny-red: take another name, or remove it" in refused.output
    assert load_descriptions(repository)["tiny"][0] == exported.description
    again = export(checkpoint, repository, "--name", "tiny-red", "--lora", file)
    assert again.exit_code == 0, again.output
    assert (repository / "tiny-red_text_encoder").exists()
    back = export(checkpoint, repository, "--name", "tiny-red")
    assert back.exit_code == 0, back.output
    assert not (repository / "tiny-red_text_encoder").exists(), "no model reads it any more"
    assert (repository / "tiny_text_encoder").exists()
