"""The engine protocol and the self-description of a model: all the gateway knows about networks."""

import hashlib
import math
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from service.errors import Cancelled, DeadlineExceeded
from service.tracing import CURRENT, Trace

Array = NDArray[np.floating]

DESCRIPTION = "description"  # <repository>/<model>_<denoiser>/description/{model.json, tokenizer.json}


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Tensor(_Frozen):
    """One named input or output of a network; -1 marks a dynamic dimension, the batch is not listed."""

    name: str
    dtype: Literal["fp32", "fp16", "int64"]
    shape: tuple[int, ...]


class Network(_Frozen):
    """One entry of the model repository: <entry>/1/<file>, its tensors, its digest (``digest_of`` the file).

    Models whose networks are equal share an entry.
    """

    entry: str
    file: str
    sha256: str
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"  # of the arithmetic that was exported
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    @property
    def digest(self) -> str:
        """Sixteen hex digits by which a server shows that it serves this network."""
        return self.sha256[:16]


class Tokenizer(_Frozen):
    """A tokenizers JSON file beside the description; prompts become max_length ids, padded with pad_id."""

    file: str
    max_length: int
    pad_id: int


class NoiseSchedule(_Frozen):
    """What the network was trained with: cumulative alphas of a VP process, or a flow (sigma = t/(1-t))."""

    kind: Literal["vp", "flow"]
    prediction: Literal["eps", "v", "x0", "flow"]
    timesteps: int = 1000
    alphas_cumprod: tuple[float, ...] = ()  # [timesteps], descending; empty for flow
    shift: float = 1.0  # flow only


class Latent(_Frozen):
    """Latent layout: [channels, height/factor, width/factor]; decoder input = latent / scale + shift."""

    channels: int
    factor: int
    scale: float
    shift: float = 0.0


class Upsampler(_Frozen):
    """Layout of the network that enlarges pictures block by block, and the noise levels that it denoises.

    ``sigmas`` are those that it takes where a request leaves them open, decreasing, the last 0.
    """

    block: int  # pixels along a block of the enlarged picture
    factor: int
    thumbnail: int  # pixels along the small picture that every block sees
    sigma_min: float
    sigma_max: float
    sigmas: tuple[float, ...]


class ModelDescription(_Frozen):
    """Everything the gateway must know about a model, written by ``export`` and never typed twice."""

    name: str
    family: Literal["stable-diffusion", "stable-diffusion-xl", "pixart-sigma", "stable-diffusion-3"]
    noise_schedule: NoiseSchedule
    latent: Latent
    sizes: tuple[tuple[int, int], ...]  # (width, height) the model serves; the first is the default
    default_preset: str
    tokenizers: tuple[Tokenizer, ...]
    networks: Mapping[str, Network]  # role ("text_encoder", "unet" or "transformer", "vae_decoder") -> network
    upsampler: Upsampler | None = None  # of the role "upsampler", where there is one
    preview: tuple[tuple[float, ...], ...]  # [channels + 1, 3]: latent -> RGB in [-1, 1], last row is the bias
    zeros_for_no_negative: bool = False  # without a negative prompt, the unconditional conditioning is zeros

    @property
    def denoiser(self) -> str:
        """The role of the network that the sampler calls, in diffusers' words."""
        return "transformer" if "transformer" in self.networks else "unet"

    @property
    def choices(self) -> Mapping[str, list[str]]:
        """What a recipe may name in each of its fields for networks; all of these take what the denoiser takes.

        "unet_initial..." predict x0 from pure noise, "unet_residual..." what a sampled latent lacks; any other
        "unet_..." predicts what the unet does (a few-step student).
        """
        further = [role for role in self.networks if role.startswith(f"{self.denoiser}_")]
        initial, residual = (
            [role for role in further if role.startswith(f"{self.denoiser}_{use}")] for use in ("initial", "residual")
        )
        network = [self.denoiser, *(role for role in further if role not in (*initial, *residual))]
        return {"network": network, "initial_network": initial, "residual_network": residual}

    def __hash__(self) -> int:
        return hash(self.digest)

    @cached_property
    def digest(self) -> str:
        """Sixteen hex digits over the description, which holds the digest of every network file."""
        return hashlib.sha256(self.model_dump_json(exclude_none=True).encode()).hexdigest()[:16]


def digest_of(file: Path) -> str:
    """sha256 of a network's file, continued over the weights that lie beside it where they exceed 2 GB."""
    digest = hashlib.sha256()
    for part in (file, file.with_name(f"{file.name}.data")):
        if part == file or part.exists():
            with part.open("rb") as content:
                hashlib.file_digest(content, lambda: digest)
    return digest.hexdigest()


def load_descriptions(repository: Path) -> dict[str, tuple[ModelDescription, Path]]:
    """Every model of a repository by name, with the folder that holds its description and tokenizer."""
    files = sorted(repository.glob(f"*/{DESCRIPTION}/model.json"))
    loaded = [(ModelDescription.model_validate_json(file.read_text()), file.parent) for file in files]
    return {model.name: (model, folder) for model, folder in loaded}


@dataclass(frozen=True)
class Conditioning:
    """Encoded text of one row: named arrays without the batch dimension, immutable; no digest if made for one step."""

    arrays: Mapping[str, Array]
    digest: str


@dataclass(frozen=True)
class Surroundings:
    """What the upsampler sees around one block, pixels in [-1, 1]."""

    base: Array  # [3, block, block]: the block itself, enlarged by Lanczos' kernel
    lowres: Array  # [3, w, w]: the 3 x 3 low-resolution blocks around it
    thumbnail: Array  # [3, t, t]: the whole picture
    caches: tuple[Array | None, ...]  # keys and values of the left, top and top left block; None beyond the edge


@dataclass(frozen=True)
class Ticket:
    """What the gate knows of the request behind a call. Times are on the time.monotonic() clock."""

    request_id: str = ""
    tenant: str = ""
    cost: float = 0.0  # estimated compute seconds
    deadline: float | None = None
    patience: float = math.inf  # seconds after which, without a deadline, nothing that comes later goes first
    arrived: float = field(default_factory=time.monotonic)
    cancelled: threading.Event = field(default_factory=threading.Event)
    trace: Trace = field(default_factory=CURRENT.get)

    @property
    def due(self) -> float:
        """What is due first goes first, in the queue and in the gate."""
        return self.arrived + self.patience if self.deadline is None else self.deadline

    def check(self) -> None:
        """Raise Cancelled or DeadlineExceeded if this request must not go on."""
        if self.cancelled.is_set():
            raise Cancelled("the request was cancelled")
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise DeadlineExceeded("the deadline of the request has passed", field="deadline_ms")


class Engine(Protocol):
    """Runs the networks of a model repository. Every method may be called from many threads at once."""

    name: str
    models: Mapping[str, ModelDescription]

    @property
    def precision(self) -> str:
        """What the networks compute in; "unknown" while a remote engine has not been reached."""
        ...

    def tokenize(self, model: str, prompt: str, *, field: str = "prompt") -> list[NDArray[np.int64]]:
        """One [max_length] array per tokenizer, never truncated: too long is InvalidRequest naming ``field``."""
        ...

    def encode_text(self, model: str, tokens: Sequence[NDArray[np.int64]], ticket: Ticket) -> Conditioning:
        """Token ids, one [max_length] array per tokenizer -> conditioning of one row."""
        ...

    def predict(
        self, model: str, network: str, x: Array, timestep: Array, conditioning: Sequence[Conditioning], ticket: Ticket
    ) -> Array:
        """One evaluation: x [rows, C, H, W], timestep [rows], one conditioning per row -> output like x, float32."""
        ...

    def decode(self, model: str, latent: Array, ticket: Ticket) -> Array:
        """Latent [C, H, W] (scaled as sampled) -> pixels [3, H * factor, W * factor] in [-1, 1]."""
        ...

    def upsample(
        self, model: str, x: Array, sigma: Array, surroundings: Sequence[Surroundings], ticket: Ticket
    ) -> tuple[Array, Array]:
        """One evaluation of blocks: x [rows, 3, block, block], sigma [rows] -> x0 like x, float32; keys and values."""
        ...

    def health(self) -> None:
        """One real, small network call; raises Unavailable or EngineFailure when it fails."""
        ...

    def close(self) -> None:
        """Release everything; no call may follow."""
        ...
