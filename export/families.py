"""Which pipelines of diffusers are understood, and the networks each of them is made of."""

from dataclasses import dataclass
from typing import Any, Literal

import torch

from export.checkpoint import INDEX, Checkpoint
from export.networks import Network, TextEncoder, Unet, VaeDecoder
from service.errors import InvalidRequest


@dataclass(frozen=True)
class Model:
    """A checkpoint taken apart: its networks and what goes with them."""

    family: Literal["stable-diffusion"]
    text_encoder: Network
    denoiser: Network
    vae_decoder: VaeDecoder
    tokenizers: tuple[Any, ...]
    scheduler: Any
    default_size: tuple[int, int]  # pixels

    @property
    def networks(self) -> tuple[Network, ...]:
        """All networks; the denoiser, beside which the description lies, comes last."""
        return (self.text_encoder, self.vae_decoder, self.denoiser)


def load(checkpoint: Checkpoint, weights: torch.dtype) -> Model:
    """The model of a checkpoint, by the class of its pipeline."""
    if checkpoint.pipeline not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise InvalidRequest(f"{checkpoint.pipeline} is not supported, only {known}", field=INDEX)
    return FAMILIES[checkpoint.pipeline](checkpoint, weights)


def _stable_diffusion(checkpoint: Checkpoint, weights: torch.dtype) -> Model:
    text_encoder = TextEncoder(checkpoint.network("text_encoder", "CLIPTextModel", weights=weights))
    unet = Unet(checkpoint.network("unet", "UNet2DConditionModel", weights=weights), text_encoder.outputs)
    decoder = VaeDecoder(checkpoint.network("vae", "AutoencoderKL", weights=weights))
    side = unet.sample_size * decoder.factor
    return Model(
        family="stable-diffusion",
        text_encoder=text_encoder,
        denoiser=unet,
        vae_decoder=decoder,
        tokenizers=(checkpoint.tokenizer("tokenizer"),),
        scheduler=checkpoint.scheduler(),
        default_size=(side, side),
    )


FAMILIES = {"StableDiffusionPipeline": _stable_diffusion}
