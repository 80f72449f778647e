"""A small model of every family, in diffusers format with random weights."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from tests.models import clip_tokenizer, tiny_sd

SD_BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


def clip(cls: type, tokenizer: CLIPTokenizer, width: int) -> Any:
    """A CLIP text encoder of two layers; projection as wide as the states."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return cls(config)


def second_clip_tokenizer() -> CLIPTokenizer:
    """As SDXL's second: padded with "!"."""
    tokenizer = clip_tokenizer()
    tokenizer.pad_token = "!"
    return tokenizer


def t5(width: int) -> tuple[T5Tokenizer, T5EncoderModel]:
    """A T5 encoder of two layers with a tokenizer of letters."""
    letters = [(letter, -3.0) for letter in "abcdefghijklmnopqrstuvwxyz0123456789,.-"]
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *letters]
    tokenizer = T5Tokenizer(vocab=vocab, extra_ids=0)
    config = T5Config(
        vocab_size=len(vocab), d_model=width, d_kv=8, d_ff=2 * width, num_layers=2, num_heads=2,
        feed_forward_proj="gated-gelu", pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    return tokenizer, T5EncoderModel(config)


def vae(channels: int, **config: Any) -> AutoencoderKL:
    """f = 2."""
    return AutoencoderKL(
        latent_channels=channels, block_out_channels=(4, 8), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, layers_per_block=1, norm_num_groups=4, **config,
    )  # fmt: skip


def tiny_sdxl(directory: Path) -> Path:
    """Two text encoders, pooled and size conditioning, predicts eps."""
    torch.manual_seed(0)
    first, second = clip_tokenizer(), second_clip_tokenizer()
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, attention_head_dim=2,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2, use_linear_projection=True,
        cross_attention_dim=16 + 24, transformer_layers_per_block=(1, 2), addition_embed_type="text_time",
        addition_time_embed_dim=8, projection_class_embeddings_input_dim=24 + 6 * 8,
    )  # fmt: skip
    pipeline = StableDiffusionXLPipeline(
        vae=vae(4, scaling_factor=0.3),
        text_encoder=clip(CLIPTextModel, first, 16),
        text_encoder_2=clip(CLIPTextModelWithProjection, second, 24),
        tokenizer=first,
        tokenizer_2=second,
        unet=unet,
        scheduler=EulerDiscreteScheduler(**SD_BETAS, steps_offset=1),
        add_watermarker=False,
    )
    pipeline.save_pretrained(directory)
    return directory


def tiny_pixart(directory: Path) -> Path:
    """T5 with a mask, a transformer that also predicts variances."""
    torch.manual_seed(0)
    tokenizer, text_encoder = t5(16)
    transformer = PixArtTransformer2DModel(
        sample_size=8, num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2,
        cross_attention_dim=16, caption_channels=16, interpolation_scale=1, use_additional_conditions=False,
        norm_type="ada_norm_single", norm_elementwise_affine=False, norm_eps=1e-6, attention_bias=True,
    )  # fmt: skip
    pipeline = PixArtSigmaPipeline(
        vae=vae(4, scaling_factor=0.3),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        transformer=transformer,
        scheduler=DPMSolverMultistepScheduler(beta_schedule="linear"),
    )
    pipeline.save_pretrained(directory)
    return directory


def tiny_sd3(directory: Path) -> Path:
    """Three text encoders, flow, 16 latent channels with a shift."""
    torch.manual_seed(0)
    first, second = clip_tokenizer(), second_clip_tokenizer()
    tokenizer, text_encoder = t5(48)
    transformer = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=16, out_channels=16, num_layers=2, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=48, caption_projection_dim=16, pooled_projection_dim=16 + 24,
        pos_embed_max_size=12, qk_norm="rms_norm", dual_attention_layers=(0,),
    )  # fmt: skip
    pipeline = StableDiffusion3Pipeline(
        vae=vae(16, scaling_factor=1.5, shift_factor=0.06, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=clip(CLIPTextModelWithProjection, first, 16),
        text_encoder_2=clip(CLIPTextModelWithProjection, second, 24),
        text_encoder_3=text_encoder,
        tokenizer=first,
        tokenizer_2=second,
        tokenizer_3=tokenizer,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )
    pipeline.save_pretrained(directory)
    return directory


TINY = {
    "stable-diffusion-1": partial(tiny_sd, prediction_type="epsilon", beta_schedule="scaled_linear"),
    "stable-diffusion-2": partial(tiny_sd, prediction_type="v_prediction", beta_schedule="scaled_linear"),
    "stable-diffusion-xl": tiny_sdxl,
    "pixart-sigma": tiny_pixart,
    "stable-diffusion-3": tiny_sd3,
}
