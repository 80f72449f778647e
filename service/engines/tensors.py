"""What every engine that runs exported networks does with arrays: requests to named inputs, outputs to answers.

Names come from the description; text encoder outputs carry the names of the unet inputs that they feed.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from service.engines.contract import Array, Conditioning, Latent, ModelDescription, Network

Inputs = Mapping[str, NDArray[np.generic]]


def text_inputs(network: Network, tokens: Sequence[NDArray[np.int64]]) -> Inputs:
    """One row: token ids in the order of the tokenizers."""
    return {tensor.name: ids[None] for tensor, ids in zip(network.inputs, tokens, strict=True)}


def conditioning(network: Network, outputs: Sequence[Array]) -> Conditioning:
    """The encoder's outputs of one row, immutable."""
    arrays = {tensor.name: output[0] for tensor, output in zip(network.outputs, outputs, strict=True)}
    digest = hashlib.sha256()
    for name, array in arrays.items():
        array.flags.writeable = False
        digest.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    return Conditioning(arrays, digest.hexdigest())


def denoiser_inputs(network: Network, x: Array, timestep: Array, rows: Sequence[Conditioning]) -> Inputs:
    """x [rows, C, H, W], timestep [rows] and the conditioning of every row, cast to what the network takes."""
    sample, clock, *text = network.inputs
    inputs: dict[str, Array] = {
        sample.name: np.ascontiguousarray(x, np.float32),
        clock.name: np.ascontiguousarray(timestep, np.float32),
    }
    for tensor in text:
        inputs[tensor.name] = np.stack([row.arrays[tensor.name] for row in rows]).astype(np.float32, copy=False)
    return inputs


def decoder_inputs(network: Network, latent: Array, layout: Latent) -> Inputs:
    """One latent as sampled [C, H, W] -> what the decoder was trained on."""
    return {network.inputs[0].name: (latent[None] / layout.scale + layout.shift).astype(np.float32)}


def pixels(outputs: Sequence[Array]) -> Array:
    """The decoder's picture of one row, clipped to [-1, 1]."""
    return cast(Array, np.clip(outputs[0][0], -1.0, 1.0))


def blank_row(model: ModelDescription, role: str) -> Inputs:
    """One row of zeros for a network, at the default size; dynamic dimensions are height, then width."""
    width, height = (side // model.latent.factor for side in model.sizes[0])
    inputs = {}
    for tensor in model.networks[role].inputs:
        size = iter((height, width))
        shape = [next(size) if dim == -1 else dim for dim in tensor.shape]
        inputs[tensor.name] = np.zeros((1, *shape), np.int64 if tensor.dtype == "int64" else np.float32)
    return inputs
