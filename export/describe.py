"""The self-description of a model, computed from its checkpoint: nothing in it is typed by hand."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer as TokenizerFile

from export.families import Model
from export.networks import Denoiser, VaeDecoder
from service.engines.contract import Latent, ModelDescription, NoiseSchedule, Tokenizer
from service.errors import InvalidRequest

NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
PREDICTIONS: Mapping[str, Any] = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}


def describe(
    model: Model, *, name: str, default_preset: str, sizes: Sequence[tuple[int, int]]
) -> tuple[ModelDescription, dict[str, str]]:
    """The description, its networks still to come, and the tokenizer files that go beside it."""
    if not NAME.fullmatch(name):
        raise InvalidRequest(f"the name {name} is not made of a-z, 0-9, dot, dash and underscore", field="name")
    layout = _latent(model.vae_decoder)
    side = model.denoiser.sample_size * layout.factor
    tokenizers = [_tokenizer(loaded, index) for index, loaded in enumerate(model.tokenizers)]
    description = ModelDescription(
        name=name,
        family=model.family,
        noise_schedule=_noise_schedule(model.scheduler),
        latent=layout,
        sizes=tuple(_check_size(size, model.denoiser, layout.factor) for size in sizes or [(side, side)]),
        default_preset=default_preset,
        tokenizers=tuple(entry for entry, _ in tokenizers),
        networks={},
        preview=_preview(model.vae_decoder, layout),
        zeros_for_no_negative=model.zeros_for_no_negative,
    )
    return description, {entry.file: content for entry, content in tokenizers}


def _check_size(size: tuple[int, int], denoiser: Denoiser, factor: int) -> tuple[int, int]:
    step, limit = factor * denoiser.multiple, denoiser.limit
    if any(side < 1 or side % step for side in size):
        raise InvalidRequest(f"size {size[0]}x{size[1]}: sides must be multiples of {step}", field="size")
    if limit and max(size) > limit * step:
        raise InvalidRequest(f"size {size[0]}x{size[1]}: sides must not exceed {limit * step}", field="size")
    return size


def _noise_schedule(scheduler: Any) -> NoiseSchedule:
    """Flow and its shift, or cumulative alphas as the diffusers scheduler computes them from its configuration."""
    config = scheduler.config
    if type(scheduler).__name__.startswith("FlowMatch"):
        if config.get("use_dynamic_shifting"):
            raise InvalidRequest("scheduler: a shift that depends on the size is not supported", field="scheduler")
        return NoiseSchedule(
            kind="flow", prediction="flow", timesteps=config.num_train_timesteps, shift=config.get("shift", 1.0)
        )
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in PREDICTIONS or not hasattr(scheduler, "alphas_cumprod"):
        raise InvalidRequest(f"scheduler: prediction type {prediction} is not supported", field="scheduler")
    alphas = tuple(float(alpha) for alpha in scheduler.alphas_cumprod)
    return NoiseSchedule(kind="vp", prediction=PREDICTIONS[prediction], timesteps=len(alphas), alphas_cumprod=alphas)


def _latent(decoder: VaeDecoder) -> Latent:
    """Layout and scale of the latent; scaled = (unscaled - shift) * scale."""
    config: Any = decoder.module.config
    return Latent(
        channels=config.latent_channels,
        factor=2 ** (len(config.block_out_channels) - 1),
        scale=config.scaling_factor,
        shift=config.shift_factor or 0.0,
    )


def _tokenizer(loaded: Any, index: int) -> tuple[Tokenizer, str]:
    """How the gateway tokenizes, and the tokenizers JSON; padding and truncation stay with the gateway."""
    content = TokenizerFile.from_str(loaded.backend_tokenizer.to_str())
    content.no_padding()
    content.no_truncation()
    file = f"tokenizer_{index + 1}.json" if index else "tokenizer.json"
    described = Tokenizer(file=file, max_length=loaded.model_max_length, pad_id=loaded.pad_token_id)
    return described, content.to_str(pretty=True)


def _preview(decoder: VaeDecoder, layout: Latent) -> tuple[tuple[float, ...], ...]:
    """Least squares from smooth random latents to the mean colour of the pixels each of them becomes."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(16, layout.channels, 3, 3, generator=generator)
    latents = torch.nn.functional.interpolate(coarse, size=12, mode="bilinear", align_corners=True)
    with torch.no_grad():
        pixels = torch.cat([decoder(row[None] / layout.scale + layout.shift) for row in latents])
    colours = torch.nn.functional.avg_pool2d(pixels, layout.factor)
    rows = latents.movedim(1, -1).flatten(0, -2).double().numpy()  # [pixels, channels]
    targets = colours.movedim(1, -1).flatten(0, -2).double().numpy()  # [pixels, 3]
    factors, *_ = np.linalg.lstsq(np.c_[rows, np.ones(len(rows))], targets, rcond=None)
    return tuple(tuple(round(float(value), 6) for value in row) for row in factors)
