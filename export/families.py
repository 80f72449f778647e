"""Which pipelines of diffusers are understood, and the networks that each of them is made of."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tokenizers import normalizers

from export.checkpoint import INDEX, Checkpoint
from export.denoisers import PixArt, StableDiffusion3, Unet, UnetXl
from export.networks import Denoiser, Network, VaeDecoder
from export.text_encoders import T5, Clip, ClipPair, ClipPairAndT5, TextEncoder
from service.errors import InvalidRequest

Family = Literal["stable-diffusion", "stable-diffusion-xl", "pixart-sigma", "stable-diffusion-3"]

Parts = tuple[TextEncoder, Callable[[str], Denoiser], tuple[Any, ...]]  # the denoiser of a role, the tokenizers

PIXART_TOKENS, SD3_T5_TOKENS = 300, 256  # what the pipelines of diffusers pad to


@dataclass(frozen=True)
class Model:
    """A checkpoint taken apart: its networks and what goes with them."""

    family: Family
    text_encoder: TextEncoder
    vae_decoder: VaeDecoder
    denoiser: Denoiser
    further: tuple[Denoiser, ...]  # what a recipe may name in its place, for a step, before or after it
    tokenizers: tuple[Any, ...]
    scheduler: Any
    zeros_for_no_negative: bool  # conditioning without a negative prompt

    @property
    def networks(self) -> tuple[Network, ...]:
        """All networks; the denoiser, beside which the description lies, comes last."""
        return (self.text_encoder, self.vae_decoder, *self.further, self.denoiser)


def load(checkpoint: Checkpoint) -> Model:
    """The model of a checkpoint, by the class of its pipeline."""
    if checkpoint.pipeline not in PIPELINES:
        raise InvalidRequest(f"{checkpoint.pipeline} is not supported, only {', '.join(PIPELINES)}", field=INDEX)
    decoder = VaeDecoder(checkpoint.network("vae", "AutoencoderKL", "SubpixelDecoder"))
    family, role, parts = PIPELINES[checkpoint.pipeline]
    text_encoder, made, tokenizers = parts(checkpoint, decoder)
    denoiser, *further = (made(each) for each in (role, *checkpoint.beside(role)))
    for each in further:
        _require_alike(each, denoiser)
    for lora in checkpoint.loras:
        lora.require_merged()
    zeros = family == "stable-diffusion-xl" and bool(checkpoint.index.get("force_zeros_for_empty_prompt", True))
    scheduler = checkpoint.scheduler()
    return Model(family, text_encoder, decoder, denoiser, tuple(further), tokenizers, scheduler, zeros)


def _require_alike(further: Denoiser, denoiser: Denoiser) -> None:
    """Raise InvalidRequest unless it takes what the denoiser takes."""
    example = denoiser.example(1, 2, 2)
    try:
        fits = further(*example).shape == example[0].shape
        alike = fits and (further.multiple, further.limit) == (denoiser.multiple, denoiser.limit)
    except RuntimeError:
        alike = False
    if not alike:
        message = f"{further.role} takes other latents or another conditioning than the {denoiser.role}"
        raise InvalidRequest(message, field=further.role)


def _stable_diffusion(checkpoint: Checkpoint, _: VaeDecoder) -> Parts:
    text_encoder = Clip(checkpoint.network("text_encoder", "CLIPTextModel"))

    def denoiser(role: str) -> Denoiser:
        return Unet(role, checkpoint.network(role, "UNet2DConditionModel"), text_encoder.outputs)

    return text_encoder, denoiser, (_clip_tokenizer(checkpoint, "tokenizer"),)


def _stable_diffusion_xl(checkpoint: Checkpoint, decoder: VaeDecoder) -> Parts:
    text_encoder = ClipPair(
        checkpoint.network("text_encoder", "CLIPTextModel"),
        checkpoint.network("text_encoder_2", "CLIPTextModelWithProjection"),
    )

    def denoiser(role: str) -> Denoiser:
        return UnetXl(role, checkpoint.network(role, "UNet2DConditionModel"), text_encoder.outputs, decoder.factor)

    return text_encoder, denoiser, tuple(_clip_tokenizer(checkpoint, name) for name in ("tokenizer", "tokenizer_2"))


def _pixart_sigma(checkpoint: Checkpoint, _: VaeDecoder) -> Parts:
    text_encoder = T5(checkpoint.network("text_encoder", "T5EncoderModel"), PIXART_TOKENS)

    def denoiser(role: str) -> Denoiser:
        return PixArt(role, checkpoint.network(role, "PixArtTransformer2DModel"), text_encoder.outputs)

    tokenizer = _t5_tokenizer(checkpoint, "tokenizer", PIXART_TOKENS)
    rules = (normalizers.Lowercase(), normalizers.Strip(), tokenizer.backend_tokenizer.normalizer)
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence([rule for rule in rules if rule is not None])
    return text_encoder, denoiser, (tokenizer,)


def _stable_diffusion_3(checkpoint: Checkpoint, _: VaeDecoder) -> Parts:
    module = checkpoint.network("transformer", "SD3Transformer2DModel")
    t5 = checkpoint.network("text_encoder_3", "T5EncoderModel") if checkpoint.has("text_encoder_3") else None
    text_encoder = ClipPairAndT5(
        checkpoint.network("text_encoder", "CLIPTextModelWithProjection"),
        checkpoint.network("text_encoder_2", "CLIPTextModelWithProjection"),
        t5,
        SD3_T5_TOKENS,
        module.config.joint_attention_dim,
    )
    tokenizers = tuple(_clip_tokenizer(checkpoint, name) for name in ("tokenizer", "tokenizer_2"))
    if t5 is not None:
        tokenizers += (_t5_tokenizer(checkpoint, "tokenizer_3", SD3_T5_TOKENS),)

    def denoiser(role: str) -> Denoiser:
        own = module if role == "transformer" else checkpoint.network(role, "SD3Transformer2DModel")
        return StableDiffusion3(role, own, text_encoder.outputs)

    return text_encoder, denoiser, tokenizers


def _clip_tokenizer(checkpoint: Checkpoint, component: str) -> Any:
    return checkpoint.tokenizer(component, "CLIPTokenizer", "CLIPTokenizerFast")


def _t5_tokenizer(checkpoint: Checkpoint, component: str, length: int) -> Any:
    tokenizer = checkpoint.tokenizer(component, "T5Tokenizer", "T5TokenizerFast")
    tokenizer.model_max_length = length
    return tokenizer


PIPELINES: Mapping[str, tuple[Family, str, Callable[[Checkpoint, VaeDecoder], Parts]]] = {  # and the denoiser's role
    "StableDiffusionPipeline": ("stable-diffusion", "unet", _stable_diffusion),
    "StableDiffusionXLPipeline": ("stable-diffusion-xl", "unet", _stable_diffusion_xl),
    "PixArtSigmaPipeline": ("pixart-sigma", "transformer", _pixart_sigma),
    "StableDiffusion3Pipeline": ("stable-diffusion-3", "transformer", _stable_diffusion_3),
}
