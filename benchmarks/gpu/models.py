"""Pipelines with random weights: UNet and decoder as large as Stable Diffusion 1.5's and SDXL's, or as small as fits.

The text encoders have the widths of the originals and two layers: they run once per prompt.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from service.settings import ROOT

WORDS = ROOT / "model_repository" / "postcard_unet" / "description" / "tokenizer.json"


@dataclass(frozen=True)
class Model:
    """What makes one size differ from another."""

    size: int  # of the picture
    unet: Mapping[str, Any]
    vae: tuple[int, ...]  # channels
    widths: tuple[int, ...]  # of the text encoders: two make it an SDXL


ATTENTION, PLAIN = "CrossAttn{}Block2D", "{}Block2D"


def _blocks(attention: tuple[bool, ...]) -> dict[str, tuple[str, ...]]:
    down = tuple((ATTENTION if there else PLAIN).format("Down") for there in attention)
    up = tuple((ATTENTION if there else PLAIN).format("Up") for there in reversed(attention))
    return {"down_block_types": down, "up_block_types": up}


XL: Mapping[str, Any] = {"addition_embed_type": "text_time", "use_linear_projection": True}
LARGE = {
    "sd15": Model(
        512,
        {"block_out_channels": (320, 640, 1280, 1280), "attention_head_dim": 8, "cross_attention_dim": 768}
        | _blocks((True, True, True, False)),
        (128, 256, 512, 512),
        (768,),
    ),
    "sdxl": Model(
        1024,
        {"block_out_channels": (320, 640, 1280), "attention_head_dim": (5, 10, 20), "cross_attention_dim": 2048}
        | {"transformer_layers_per_block": (1, 2, 10), "addition_time_embed_dim": 256}
        | {"projection_class_embeddings_input_dim": 1280 + 6 * 256, **XL}
        | _blocks((False, True, True)),
        (128, 256, 512, 512),
        (768, 1280),
    ),
}
SMALL = {
    "sd15": Model(
        16,
        {"block_out_channels": (32, 64), "attention_head_dim": 4, "cross_attention_dim": 32, "layers_per_block": 1}
        | _blocks((True, False)),
        (32, 32),
        (32,),
    ),
    "sdxl": Model(
        16,
        {"block_out_channels": (32, 64), "attention_head_dim": (2, 4), "cross_attention_dim": 64}
        | {"transformer_layers_per_block": (1, 2), "addition_time_embed_dim": 8, "layers_per_block": 1}
        | {"projection_class_embeddings_input_dim": 32 + 6 * 8, **XL}
        | _blocks((False, True)),
        (32, 32),
        (32, 32),
    ),
}


def build(model: Model, directory: Path, device: str) -> None:
    """Write the pipeline in diffusers layout, fp16; the weights are drawn on the device."""
    torch.manual_seed(0)
    with torch.device(device):
        unet = UNet2DConditionModel(sample_size=model.size // _factor(model), **model.unet)
        vae = AutoencoderKL(
            block_out_channels=model.vae,
            down_block_types=("DownEncoderBlock2D",) * len(model.vae),
            up_block_types=("UpDecoderBlock2D",) * len(model.vae),
            layers_per_block=2,
            latent_channels=4,
            force_upcast=False,  # with random weights nothing overflows
        )
    parts: dict[str, Any] = {"unet": unet, "vae": vae, "scheduler": _scheduler()}
    for index, width in enumerate(model.widths, 1):
        suffix = "" if index == 1 else f"_{index}"
        parts[f"tokenizer{suffix}"] = tokenizer = _tokenizer()
        parts[f"text_encoder{suffix}"] = _text_encoder(tokenizer, width, projected=index == 2)
    if len(model.widths) == 2:
        pipeline: Any = StableDiffusionXLPipeline(**parts, add_watermarker=False)
    else:
        absent = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        pipeline = StableDiffusionPipeline(**parts, **absent)
    pipeline.to(torch.float16).to("cpu").save_pretrained(directory)


def _factor(model: Model) -> int:
    return int(2 ** (len(model.vae) - 1))


def _scheduler() -> EulerDiscreteScheduler:
    betas = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    return EulerDiscreteScheduler(timestep_spacing="trailing", steps_offset=1, **betas)


def _tokenizer() -> CLIPTokenizer:
    bpe = json.loads(WORDS.read_text())["model"]
    return CLIPTokenizer(vocab=bpe["vocab"], merges=[tuple(pair) for pair in bpe["merges"]], model_max_length=77)


def _text_encoder(tokenizer: CLIPTokenizer, width: int, *, projected: bool) -> Any:
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=max(1, width // 64),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModelWithProjection(config) if projected else CLIPTextModel(config)
