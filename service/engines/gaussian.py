"""A model in closed form: every prompt names a Gaussian mixture over latents, its denoiser is exact.

For tests, demonstrations and, in its null mode, load tests of everything above the engine. The distribution is
p(x0) = mean_k N(x0; mu_k, s^2 I) with mu_k a smooth field of random low frequencies, so any picture size works.
"""
# ruff: noqa: ARG002 (formulas need fewer arguments than the protocol passes)

import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as TextTokenizer
from tokenizers import models, pre_tokenizers

from service.engines.contract import (
    Array,
    Conditioning,
    Latent,
    ModelDescription,
    Network,
    NoiseSchedule,
    Surroundings,
    Tensor,
    Ticket,
    Tokenizer,
    Upsampler,
)
from service.engines.tokenizers import PromptTokenizer

NAME = "gaussian"
SIZES = ((256, 256), (512, 512), (384, 256), (256, 384), (64, 64))
PREVIEW = ((0.5, 0.1, 0.0), (0.1, 0.5, 0.2), (0.0, 0.2, 0.5), (0.25, -0.1, -0.25), (0.0, 0.0, 0.0))
COMPONENTS, CHANNELS, FACTOR, FREQUENCIES = 3, 4, 8, 4
SPREAD = 0.2  # s, the standard deviation of every component
MAX_TOKENS = 1024

Prediction = Literal["eps", "v", "x0", "flow"]


class GaussianEngine:
    """The engine whose networks are formulas."""

    name = NAME
    precision = "fp32"

    def __init__(self, *, prediction: Prediction = "v", null: bool = False) -> None:
        self._null = null  # networks answer zeros at once
        description = describe(prediction)
        self.models: Mapping[str, ModelDescription] = {NAME: description}
        self._tokenize = PromptTokenizer(description, [_byte_tokenizer()])

    def tokenize(self, model: str, prompt: str, *, field: str = "prompt") -> list[NDArray[np.int64]]:
        return self._tokenize(prompt, field)

    def encode_text(self, model: str, tokens: Sequence[NDArray[np.int64]], ticket: Ticket) -> Conditioning:
        digest = hashlib.sha256(b"".join(ids.tobytes() for ids in tokens)).hexdigest()
        return Conditioning({"spectrum": _spectrum(digest)}, digest)

    def predict(
        self, model: str, network: str, x: Array, timestep: Array, conditioning: Sequence[Conditioning], ticket: Ticket
    ) -> Array:
        if self._null:
            return np.zeros(x.shape, np.float32)
        rows = zip(x, timestep, conditioning, strict=True)
        return np.stack([self._row(x_t, float(t), c.arrays["spectrum"]) for x_t, t, c in rows]).astype(np.float32)

    def decode(self, model: str, latent: Array, ticket: Ticket) -> Array:
        _, height, width = latent.shape
        if self._null:
            return np.zeros((3, height * FACTOR, width * FACTOR), np.float32)
        colors = np.einsum("chw,cr->rhw", latent, np.array(PREVIEW[:-1]))
        smooth = _interpolation(height) @ colors @ _interpolation(width).T  # [3, H, W]
        return cast(Array, np.tanh(smooth).astype(np.float32))

    def upsample(
        self, model: str, x: Array, sigma: Array, surroundings: Sequence[Surroundings], ticket: Ticket
    ) -> tuple[Array, Array]:
        """The denoiser of x0 ~ N(base, s^2 I), which needs no keys and values."""
        base = np.stack([each.base for each in surroundings])
        share = (SPREAD**2 / (SPREAD**2 + np.square(sigma)))[:, None, None, None]
        return (base + share * (x - base)).astype(np.float32), np.zeros((len(x), 1), np.float32)

    def health(self) -> None:
        """A formula does not fail."""

    def close(self) -> None:
        """A formula holds nothing."""

    def _row(self, x_t: Array, timestep: float, spectrum: Array) -> Array:
        schedule = self.models[NAME].noise_schedule
        a, b = signal_and_noise(schedule, timestep)
        x0, eps = posterior(x_t.astype(np.float64), a, b, mixture_means(spectrum, *x_t.shape[1:]))
        outputs = {"x0": x0, "eps": eps, "v": a * eps - b * x0, "flow": eps - x0}
        return outputs[schedule.prediction]


def signal_and_noise(schedule: NoiseSchedule, timestep: float) -> tuple[float, float]:
    """(a, b) of x_t = a x0 + b eps; between whole VP timesteps log sigma is linear in time, sigma = b/a."""
    if schedule.kind == "flow":
        t = timestep / schedule.timesteps
        return 1.0 - t, t
    sigma = np.exp(np.interp(timestep, np.arange(schedule.timesteps), _log_sigmas(schedule.alphas_cumprod)))
    return float(1 / np.sqrt(1 + sigma**2)), float(sigma / np.sqrt(1 + sigma**2))


def posterior(x_t: Array, a: float, b: float, means: Array) -> tuple[Array, Array]:
    """E[x0 | x_t] and E[eps | x_t] of the mixture; per component, conditioning of jointly Gaussian variables."""
    variance = (a * SPREAD) ** 2 + b**2
    residual = x_t - a * means  # [K, C, h, w]
    logits = -np.sum(residual**2, axis=(1, 2, 3)) / (2 * variance)
    weights = np.exp(logits - logits.max())
    weights /= weights.sum()
    mean, innovation = (np.tensordot(weights, part, axes=1) for part in (means, residual))
    return mean + a * SPREAD**2 / variance * innovation, b / variance * innovation


def mixture_means(spectrum: Array, height: int, width: int) -> Array:
    """The component means [K, C, h, w]: cosine series with coefficients [K, C, F, F]."""
    rows, columns = _cosines(height), _cosines(width)  # [F, h], [F, w]
    return cast(Array, np.einsum("kcij,ih,jw->kchw", spectrum.astype(np.float64), rows, columns, optimize=True))


@cache
def describe(prediction: Prediction) -> ModelDescription:
    """The self-description, as ``export`` writes it for real models."""
    kind: Literal["vp", "flow"] = "flow" if prediction == "flow" else "vp"
    sample, clock = (Tensor(name=name, dtype="fp32", shape=shape) for name, shape in _UNET_INPUTS.items())
    tokens = Tensor(name="input_ids", dtype="int64", shape=(MAX_TOKENS,))
    spectrum = Tensor(name="spectrum", dtype="fp32", shape=(COMPONENTS, CHANNELS, FREQUENCIES, FREQUENCIES))
    pixels = Tensor(name="pixels", dtype="fp32", shape=(3, -1, -1))
    return ModelDescription(
        name=NAME,
        family="stable-diffusion",
        noise_schedule=NoiseSchedule(
            kind=kind, prediction=prediction, alphas_cumprod=() if kind == "flow" else _squaredcos(1000)
        ),
        latent=Latent(channels=CHANNELS, factor=FACTOR, scale=1.0),
        sizes=SIZES,
        default_preset="balanced",
        tokenizers=(Tokenizer(file="tokenizer.json", max_length=MAX_TOKENS, pad_id=256),),
        networks={
            "text_encoder": _network("text_encoder", (tokens,), spectrum),
            "unet": _network("unet", (sample, clock, spectrum), sample.model_copy(update={"name": "out_sample"})),
            "vae_decoder": _network("vae_decoder", (sample,), pixels),
            "upsampler": _network("upsampler", (pixels,), pixels),
        },
        upsampler=Upsampler(
            block=32, factor=4, thumbnail=8, sigma_min=0.01, sigma_max=2.0, sigmas=(2.0, 0.4, 0.05, 0.0)
        ),
        preview=PREVIEW,
    )


_UNET_INPUTS = {"sample": (CHANNELS, -1, -1), "timestep": ()}


def _network(role: str, inputs: tuple[Tensor, ...], output: Tensor) -> Network:
    sha256 = hashlib.sha256(f"{role} {COMPONENTS} {FREQUENCIES} {SPREAD}".encode()).hexdigest()
    return Network(entry=f"{NAME}_{role}", file="", sha256=sha256, inputs=inputs, outputs=(output,))


def _squaredcos(timesteps: int) -> tuple[float, ...]:
    """Nichol and Dhariwal 2021, eq. 17, with their clip of beta at 0.999."""
    f = np.cos((np.arange(timesteps + 1) / timesteps + 0.008) / 1.008 * np.pi / 2) ** 2
    return tuple(np.cumprod(1 - np.minimum(1 - f[1:] / f[:-1], 0.999)).tolist())


@cache
def _log_sigmas(alphas_cumprod: tuple[float, ...]) -> NDArray[np.float64]:
    alphas = np.array(alphas_cumprod)
    return cast(NDArray[np.float64], np.log((1 - alphas) / alphas) / 2)


def _spectrum(digest: str) -> NDArray[np.float32]:
    """[K, C, F, F]: amplitudes that fall with frequency, so that the means have about unit variance."""
    draw = np.random.default_rng(int(digest, 16)).standard_normal((COMPONENTS, CHANNELS, FREQUENCIES, FREQUENCIES))
    order = np.arange(FREQUENCIES)
    return cast(NDArray[np.float32], (draw / (1 + order[:, None] + order)).astype(np.float32))


@cache
def _cosines(size: int) -> NDArray[np.float64]:
    """The first cosines [F, size] over pixel centres."""
    centres = (np.arange(size) + 0.5) / size
    return cast(NDArray[np.float64], np.cos(np.pi * np.arange(FREQUENCIES)[:, None] * centres))


@cache
def _interpolation(size: int) -> NDArray[np.float64]:
    """Linear interpolation of cell centres as a matrix [size * factor, size]."""
    centres = (np.arange(size * FACTOR) + 0.5) / FACTOR - 0.5
    return np.stack([np.interp(centres, np.arange(size), cell) for cell in np.eye(size)], axis=1)


def _byte_tokenizer() -> TextTokenizer:
    """One token per UTF-8 byte."""
    vocabulary = {char: index for index, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = TextTokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return tokenizer
