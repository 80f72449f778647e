"""Small models in diffusers format with random weights, for every test that needs one."""

from pathlib import Path

import torch
from click.testing import CliRunner
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from export.__main__ import main
from service.engines.contract import ModelDescription, load_descriptions


def clip_tokenizer(max_length: int = 77) -> CLIPTokenizer:
    """CLIP's byte-level BPE with no merges: one token per byte, plain and at the end of a word."""
    alphabet = sorted(ByteLevel.alphabet())
    words = [*alphabet, *(f"{letter}</w>" for letter in alphabet), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[], model_max_length=max_length)


def clip_text(tokenizer: CLIPTokenizer, width: int = 32, layers: int = 2) -> CLIPTextModel:
    """A CLIP text encoder that fits the tokenizer."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=layers,
            num_attention_heads=2,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def tiny_sd(
    directory: Path,
    *,
    width: int = 32,
    layers: int = 2,
    channels: tuple[int, ...] = (8, 16),
    latent_channels: int = 4,
    vae_channels: tuple[int, ...] = (4, 8),
    sample_size: int = 8,
    prediction_type: str = "v_prediction",
    beta_schedule: str = "squaredcos_cap_v2",
) -> Path:
    """A StableDiffusionPipeline: by default 8x8 latents of 4 channels, 16x16 pixels."""
    torch.manual_seed(0)
    tokenizer = clip_tokenizer()
    noise = DDPMScheduler(
        beta_schedule=beta_schedule,
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type=prediction_type,
        steps_offset=1,
        clip_sample=False,
    )
    StableDiffusionPipeline(
        unet=_unet(sample_size, latent_channels, channels, width),
        vae=_vae(latent_channels, vae_channels),
        text_encoder=clip_text(tokenizer, width, layers),
        tokenizer=tokenizer,
        scheduler=noise,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(directory)
    return directory


def _unet(sample_size: int, latent_channels: int, channels: tuple[int, ...], width: int) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=sample_size,
        in_channels=latent_channels,
        out_channels=latent_channels,
        block_out_channels=channels,
        layers_per_block=1,
        down_block_types=("DownBlock2D",) * len(channels),  # the middle block attends to the text: enough, and quick
        up_block_types=("UpBlock2D",) * len(channels),
        cross_attention_dim=width,
        attention_head_dim=2,
        norm_num_groups=4,
    )


def _vae(latent_channels: int, channels: tuple[int, ...]) -> AutoencoderKL:
    return AutoencoderKL(
        latent_channels=latent_channels,
        block_out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        layers_per_block=1,
        norm_num_groups=4,
        scaling_factor=0.5,
    )


def export_tiny(checkpoint: Path, repository: Path) -> ModelDescription:
    """Export a small checkpoint by the command line as the model "tiny"."""
    arguments = [str(checkpoint), "--out", str(repository), "--name", "tiny", "--size", "16x16", "--size", "32x16"]
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return load_descriptions(repository)["tiny"][0]
