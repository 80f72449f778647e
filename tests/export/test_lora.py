"""Merged adapters compute what the adapter beside the layer computes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file

from export import families
from export.checkpoint import Checkpoint
from export.lora import Lora
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
