"""Networks behind NVIDIA Triton: the same repository, served over gRPC. Rows of concurrent calls are merged there."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.engines import tensors
from service.engines.contract import Array, Conditioning, ModelDescription, Surroundings, Ticket
from service.engines.endpoints import Endpoints
from service.engines.shelf import NOTHING, Lasting
from service.engines.tensors import Inputs
from service.engines.tokenizers import open_repository
from service.errors import EngineFailure


class TritonEngine:
    """Serves the models of a repository through Triton servers that hold the same repository."""

    name = "triton"

    def __init__(self, repository: Path, urls: Sequence[str]) -> None:
        models, self._tokenizers = open_repository(repository)
        self.models: Mapping[str, ModelDescription] = models
        self._endpoints = Endpoints(urls)
        for model in self.models.values():
            self._endpoints.greet(model)

    @property
    def precision(self) -> str:
        """What the servers compute the first model in."""
        return self._endpoints.precision(next(iter(self.models)))

    def tokenize(self, model: str, prompt: str, *, field: str = "prompt") -> list[NDArray[np.int64]]:
        return self._tokenizers[model](prompt, field)

    def encode_text(self, model: str, tokens: Sequence[NDArray[np.int64]], ticket: Ticket) -> Conditioning:
        network = self.models[model].networks["text_encoder"]
        outputs = self._run(model, "text_encoder", tensors.text_inputs(network, tokens), ticket)
        return tensors.conditioning(network, outputs)

    def predict(
        self, model: str, network: str, x: Array, timestep: Array, conditioning: Sequence[Conditioning], ticket: Ticket
    ) -> Array:
        described = self.models[model].networks[network]
        inputs = tensors.step_inputs(described, x, timestep)
        digests = tuple(row.digest for row in conditioning)
        key = (described.entry, digests) if all(digests) else None
        text = Lasting(partial(tensors.lasting_inputs, described, conditioning), key)
        return self._run(model, network, inputs, ticket, text)[0]

    def decode(self, model: str, latent: Array, ticket: Ticket) -> Array:
        description = self.models[model]
        inputs = tensors.decoder_inputs(description.networks["vae_decoder"], latent, description.latent)
        return tensors.pixels(self._run(model, "vae_decoder", inputs, ticket))

    def upsample(
        self, model: str, x: Array, sigma: Array, surroundings: Sequence[Surroundings], ticket: Ticket
    ) -> tuple[Array, Array]:
        network = self.models[model].networks["upsampler"]
        inputs = tensors.upsampler_inputs(network, x, sigma, surroundings)
        x0, cache = self._run(model, "upsampler", inputs, ticket)
        return x0, cache

    def health(self) -> None:
        """One row through every network of the first model: each has a process of its own on the server."""
        model = next(iter(self.models.values()))
        for role in model.networks:
            self._run(model.name, role, tensors.blank_row(model, role), Ticket())

    def close(self) -> None:
        self._endpoints.close()

    def _run(self, model: str, role: str, inputs: Inputs, ticket: Ticket, lasting: Lasting = NOTHING) -> list[Array]:
        description = self.models[model]
        network = description.networks[role]
        outputs = self._endpoints.infer(description, network, inputs, ticket, lasting)
        if any(len(output) != len(next(iter(inputs.values()))) for output in outputs):
            raise EngineFailure(f"{network.entry} answered for another number of rows")
        return outputs
