"""Networks in this process, on the CPU: the same files of the model repository that Triton serves."""
# ruff: noqa: ARG002 (calls of a few milliseconds need no ticket; the gate looks at it between them)

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.engines import tensors
from service.engines.buckets import Buckets, Source
from service.engines.contract import Array, Conditioning, ModelDescription, Network, Surroundings, Ticket, digest_of
from service.engines.runtimes import Runtime
from service.engines.tensors import Inputs
from service.engines.tokenizers import open_repository
from service.errors import EngineFailure, Unavailable

log = logging.getLogger(__name__)

ON_DEMAND = ("upsampler",)  # compiled when first called
ONCE_PER_PICTURE = ("text_encoder", "vae_decoder")  # the other networks are denoisers, called in every step


class EmbeddedEngine:
    """Runs the ONNX files of a model repository through a runtime of this process."""

    name = "embedded"

    def __init__(self, repository: Path, runtime: Runtime) -> None:
        self.precision = runtime.precision
        models, self._tokenizers = open_repository(repository)
        self.models: Mapping[str, ModelDescription] = models
        verified = cache(partial(_verified, repository))  # models whose networks are equal share them
        self._sources = {
            (name, role): verified(network, role)
            for name, model in self.models.items()
            for role, network in model.networks.items()
        }
        self._buckets = Buckets(runtime)

    @property
    def lanes(self) -> int:
        """Calls that run side by side."""
        return self._buckets.lanes

    def tokenize(self, model: str, prompt: str, *, field: str = "prompt") -> list[NDArray[np.int64]]:
        return self._tokenizers[model](prompt, field)

    def encode_text(self, model: str, tokens: Sequence[NDArray[np.int64]], ticket: Ticket) -> Conditioning:
        network = self.models[model].networks["text_encoder"]
        outputs = self._run(model, "text_encoder", tensors.text_inputs(network, tokens))
        return tensors.conditioning(network, outputs)

    def predict(
        self, model: str, network: str, x: Array, timestep: Array, conditioning: Sequence[Conditioning], ticket: Ticket
    ) -> Array:
        inputs = tensors.denoiser_inputs(self.models[model].networks[network], x, timestep, conditioning)
        return self._run(model, network, inputs)[0]

    def decode(self, model: str, latent: Array, ticket: Ticket) -> Array:
        description = self.models[model]
        inputs = tensors.decoder_inputs(description.networks["vae_decoder"], latent, description.latent)
        return tensors.pixels(self._run(model, "vae_decoder", inputs))

    def upsample(
        self, model: str, x: Array, sigma: Array, surroundings: Sequence[Surroundings], ticket: Ticket
    ) -> tuple[Array, Array]:
        network = self.models[model].networks["upsampler"]
        x0, cache = self._call(model, "upsampler", tensors.upsampler_inputs(network, x, sigma, surroundings))
        return x0, cache

    def warm_up(self, default_model: str) -> None:
        """Compile what a picture of the default size needs; what makes it faster follows in the background."""
        model = default_model if default_model in self.models else next(iter(self.models))
        description = self.models[model]
        roles = [role for role in description.networks if role not in ON_DEMAND]
        rows = {self._sources[model, role]: tensors.blank_row(description, role) for role in roles}
        for network in [self._buckets.prepare(source, row) for source, row in rows.items()]:
            network.result()
        for source, row in rows.items():
            self._buckets.anticipate(source, row)

    def health(self) -> None:
        """Encode an empty prompt with the first model."""
        model = next(iter(self.models))
        self.encode_text(model, self.tokenize(model, ""), Ticket())

    def close(self) -> None:
        self._buckets.close()

    def _run(self, model: str, role: str, inputs: Inputs) -> list[Array]:
        return tensors.outputs(self._call(model, role, inputs))

    def _call(self, model: str, role: str, inputs: Inputs) -> list[Array]:
        try:
            return self._buckets.run(self._sources[model, role], inputs)
        except Exception as error:  # whatever the runtime raises; its text is for the log
            log.exception("the %s of %s failed", role, model)
            raise EngineFailure(f"the {role} of {model} failed") from error


def _verified(repository: Path, network: Network, role: str) -> Source:
    """The file of a network, if it is the one that the description was written for."""
    file = repository / network.entry / "1" / network.file
    if file.suffix != ".onnx":
        raise Unavailable(f"{network.entry} was exported for Triton with torch; the embedded engine runs ONNX")
    with suppress(FileNotFoundError):
        if digest_of(file) == network.sha256:
            return Source(file, network.sha256, shared=role not in ONCE_PER_PICTURE)
    raise Unavailable(f"{file} is missing or is not the file that its description names: export it again")
