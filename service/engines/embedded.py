"""Networks in this process, on the CPU.

Every network is compiled for fixed shapes: 1, 2, 4 or 8 rows of one size. A call of any number of rows is cut into
such buckets. A row's bytes depend neither on its bucket, nor on its neighbours, nor on the threads (tested).

The cores form two lanes, so that two calls run side by side; a lone call of several rows is spread over both, a lone
single row gets all cores. On two Zen 5 cores in bf16, milliseconds per row (25 M UNet, latent 32 x 32 / 16 x 16):

    a pair of rows on all cores        15.6 / 6.3      what one request gets elsewhere
    its rows side by side, one a lane  14.1 / 6.0      what one request gets here
    two pairs side by side             12.8 / 4.8      two requests
    four rows on each lane             11.8 / 4.0      four requests, merged by the gate
    eight rows on each lane            11.7 / 3.6
"""

import hashlib
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.engines import tensors
from service.engines.contract import Array, Conditioning, ModelDescription, Network, Ticket, load_descriptions
from service.engines.runtimes import Executable, Runtime
from service.engines.tensors import Inputs
from service.engines.tokenizers import PromptTokenizer
from service.errors import EngineFailure, Unavailable

log = logging.getLogger(__name__)

ROWS = (8, 4, 2, 1)  # rows of a bucket
LANES = 2
IDLE = 0.005  # seconds without a call after which the next caller counts as alone


@dataclass(frozen=True)
class _Bucket:
    """What is compiled once: a network for fixed input shapes, on a lane or (one stream) on all cores."""

    network: Network
    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    streams: int


class EmbeddedEngine:
    """Runs the ONNX files of a model repository through a runtime of this process."""

    name = "embedded"

    def __init__(self, repository: Path, runtime: Runtime) -> None:
        self.precision = runtime.precision
        self.lanes = min(LANES, runtime.threads)
        self._runtime = runtime
        self._repository = repository
        described = load_descriptions(repository)
        self.models: Mapping[str, ModelDescription] = {name: model for name, (model, _) in described.items()}
        self._tokenizers = {name: PromptTokenizer.load(*entry) for name, entry in described.items()}
        for model in self.models.values():
            self._verify(model)
        self._compiled: dict[_Bucket, Future[Executable]] = {}
        self._compilers = ThreadPoolExecutor(2, "compile")
        self._helpers = ThreadPoolExecutor(self.lanes, "lane")
        self._lock = threading.Lock()
        self._busy, self._last_caller, self._last_end = 0, 0, 0.0

    def tokenize(self, model: str, prompt: str, *, field: str = "prompt") -> list[NDArray[np.int64]]:
        return self._tokenizers[model](prompt, field)

    def encode_text(self, model: str, tokens: Sequence[NDArray[np.int64]], ticket: Ticket) -> Conditioning:  # noqa: ARG002
        network = self.models[model].networks["text_encoder"]
        return tensors.conditioning(network, self._run(network, tensors.text_inputs(network, tokens)))

    def predict(
        self,
        model: str,
        network: str,
        x: Array,
        timestep: Array,
        conditioning: Sequence[Conditioning],
        ticket: Ticket,  # noqa: ARG002
    ) -> Array:
        denoiser = self.models[model].networks[network]
        return self._run(denoiser, tensors.denoiser_inputs(denoiser, x, timestep, conditioning))[0]

    def decode(self, model: str, latent: Array, ticket: Ticket) -> Array:  # noqa: ARG002
        description = self.models[model]
        network = description.networks["vae_decoder"]
        return tensors.pixels(self._run(network, tensors.decoder_inputs(network, latent, description.latent)))

    def warm_up(self, model: str) -> None:
        """Compile what a picture of the default size needs; larger buckets follow in the background."""
        description = self.models[model]
        width, height = (side // description.latent.factor for side in description.sizes[0])
        single = [_input_example(description, role, height, width) for role in ("text_encoder", "vae_decoder", "unet")]
        needed = [self._bucket(network, inputs, self._streams(network)) for network, inputs in single]
        for future in [self._compile(bucket) for bucket in needed]:
            future.result()
        unet, inputs = single[-1]
        self._compile(self._bucket(unet, inputs, 1))
        self._compile(self._bucket(unet, {name: np.repeat(array, 2, 0) for name, array in inputs.items()}, self.lanes))

    def health(self) -> None:
        """Encode an empty prompt with the first model."""
        model = next(iter(self.models))
        self.encode_text(model, self.tokenize(model, ""), Ticket())

    def close(self) -> None:
        self._compilers.shutdown(cancel_futures=True)
        self._helpers.shutdown()

    def _verify(self, model: ModelDescription) -> None:
        for network in model.networks.values():
            file = self._file(network)
            with suppress(FileNotFoundError), file.open("rb") as content:
                if hashlib.file_digest(content, "sha256").hexdigest() == network.sha256:
                    continue
            raise Unavailable(f"{file} is not the file that the description of {model.name} names; export it again")

    def _file(self, network: Network) -> Path:
        return self._repository / network.entry / "1" / network.file

    def _streams(self, network: Network) -> int:
        """Only denoisers run in lanes; text encoder and decoder run once per picture and take all cores."""
        roles = ("text_encoder", "vae_decoder")
        once = {model.networks[role].entry for model in self.models.values() for role in roles}
        return 1 if network.entry in once else self.lanes

    def _run(self, network: Network, inputs: Inputs) -> list[Array]:
        alone = self._enter()
        try:
            return self._cut(network, inputs, alone)
        except RuntimeError as error:  # both runtimes raise it or a subclass
            log.exception("%s failed", network.entry)
            raise EngineFailure(f"the network {network.entry} failed") from error
        finally:
            self._leave()

    def _enter(self) -> bool:
        """Count the call in; whether the caller has the engine to itself, judged by the last call before it."""
        with self._lock:
            me, now = threading.get_ident(), time.monotonic()
            alone = self._busy == 0 and (self._last_caller == me or now - self._last_end > IDLE)
            self._busy += 1
            self._last_caller = me
            return alone

    def _leave(self) -> None:
        with self._lock:
            self._busy -= 1
            self._last_end = time.monotonic()

    def _cut(self, network: Network, inputs: Inputs, alone: bool) -> list[Array]:
        """Rows to buckets, and their outputs joined again in order."""
        rows = len(next(iter(inputs.values())))
        if not alone or rows == 1 or self.lanes == 1:
            return _join(self._sequence(network, inputs, alone))
        middle = rows // 2
        second = self._helpers.submit(self._sequence, network, _rows(inputs, middle, rows), False)
        return _join(self._sequence(network, _rows(inputs, 0, middle), False) + second.result())

    def _sequence(self, network: Network, inputs: Inputs, alone: bool) -> list[list[Array]]:
        """Buckets one after another on one lane: the largest that are compiled, single rows until they are."""
        rows, start, outputs = len(next(iter(inputs.values()))), 0, []
        while start < rows:
            size, execute = self._choose(network, _rows(inputs, start, rows), alone)
            outputs.append(execute(_rows(inputs, start, start + size)))
            start += size
        return outputs

    def _choose(self, network: Network, inputs: Inputs, alone: bool) -> tuple[int, Executable]:
        rows = len(next(iter(inputs.values())))
        if rows == 1 and alone:
            ready = self._compile(self._bucket(network, inputs, 1))
            if ready.done():
                return 1, ready.result()
        for size in ROWS[:-1]:
            if size <= rows:
                ready = self._compile(self._bucket(network, _rows(inputs, 0, size), self._streams(network)))
                if ready.done():
                    return size, ready.result()
        return 1, self._compile(self._bucket(network, _rows(inputs, 0, 1), self._streams(network))).result()

    def _bucket(self, network: Network, inputs: Inputs, streams: int) -> _Bucket:
        return _Bucket(network, tuple((name, array.shape) for name, array in inputs.items()), streams)

    def _compile(self, bucket: _Bucket) -> Future[Executable]:
        """The compiled bucket, begun now if nobody has asked for it before."""
        with self._lock:
            if bucket not in self._compiled:
                network = bucket.network
                self._compiled[bucket] = self._compilers.submit(
                    self._runtime.compile, self._file(network), network.sha256, dict(bucket.shapes), bucket.streams
                )
            return self._compiled[bucket]


def _rows(inputs: Inputs, start: int, stop: int) -> Inputs:
    return {name: array[start:stop] for name, array in inputs.items()}


def _join(parts: Sequence[Sequence[Array]]) -> list[Array]:
    return list(parts[0]) if len(parts) == 1 else [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]


def _input_example(model: ModelDescription, role: str, height: int, width: int) -> tuple[Network, Inputs]:
    """One row of zeros for a network at a latent size; its dynamic dimensions are (height, width)."""
    network = model.networks[role]
    dtypes = {"fp32": np.float32, "int64": np.int64}
    inputs = {}
    for tensor in network.inputs:
        size = iter((height, width))
        shape = [next(size) if dim == -1 else dim for dim in tensor.shape]
        inputs[tensor.name] = np.zeros((1, *shape), dtypes[tensor.dtype])
    return network, inputs
