"""What every engine that runs exported networks does with arrays: requests to named inputs, outputs to answers.

Names come from the description; text encoder outputs carry the names of the unet inputs that they feed.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from service.engines.contract import Array, Conditioning, Latent, ModelDescription, Network, Surroundings

Inputs = Mapping[str, NDArray[np.generic]]

NUMPY: Mapping[str, type[np.generic]] = {"fp32": np.float32, "fp16": np.float16, "int64": np.int64}


def text_inputs(network: Network, tokens: Sequence[NDArray[np.int64]]) -> Inputs:
    """One row: token ids in the order of the tokenizers."""
    return {tensor.name: ids[None] for tensor, ids in zip(network.inputs, tokens, strict=True)}


def conditioning(network: Network, encoded: Sequence[Array]) -> Conditioning:
    """The encoder's outputs of one row, immutable."""
    arrays = {tensor.name: output[0] for tensor, output in zip(network.outputs, encoded, strict=True)}
    digest = hashlib.sha256()
    for name, array in arrays.items():
        array.flags.writeable = False
        digest.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    return Conditioning(arrays, digest.hexdigest())


def zero_conditioning(network: Network) -> Conditioning:
    """What SDXL was trained with where it was trained without a prompt."""
    return conditioning(network, [np.zeros((1, *tensor.shape), np.float32) for tensor in network.outputs])


def denoiser_inputs(network: Network, x: Array, timestep: Array, rows: Sequence[Conditioning]) -> Inputs:
    """x [rows, C, H, W], timestep [rows] and the conditioning of every row, cast to what the network takes."""
    return {**step_inputs(network, x, timestep), **lasting_inputs(network, rows)}


def step_inputs(network: Network, x: Array, timestep: Array) -> Inputs:
    """What is another in every step."""
    pairs = zip(network.inputs, (x, timestep), strict=False)
    return {tensor.name: np.ascontiguousarray(array, NUMPY[tensor.dtype]) for tensor, array in pairs}


def lasting_inputs(network: Network, rows: Sequence[Conditioning]) -> Inputs:
    """What is the same in every step of a request: the conditioning."""
    stacks = {tensor: np.stack([row.arrays[tensor.name] for row in rows]) for tensor in network.inputs[2:]}
    return {tensor.name: stack.astype(NUMPY[tensor.dtype], copy=False) for tensor, stack in stacks.items()}


def decoder_inputs(network: Network, latent: Array, layout: Latent) -> Inputs:
    """One latent as sampled [C, H, W] -> what the decoder was trained on."""
    (tensor,) = network.inputs
    return {tensor.name: (latent[None] / layout.scale + layout.shift).astype(NUMPY[tensor.dtype])}


def upsampler_inputs(network: Network, x: Array, sigma: Array, rows: Sequence[Surroundings]) -> Inputs:
    """x [rows, 3, block, block], sigma [rows] and what is around every block; a neighbour beyond the edge is zeros."""
    caches = network.inputs[-3:]
    there = np.array([[cache is not None for cache in row.caches] for row in rows])
    zeros = [np.zeros(tensor.shape, NUMPY[tensor.dtype]) for tensor in caches]
    columns = [
        [row.base for row in rows],
        [row.lowres for row in rows],
        [row.thumbnail for row in rows],
        list(there),
        *([zero if row.caches[i] is None else row.caches[i] for row in rows] for i, zero in enumerate(zeros)),
    ]
    arrays = [x, sigma, *(column[0][None] if len(rows) == 1 else np.stack(column) for column in columns)]
    pairs = zip(network.inputs, arrays, strict=True)
    return {tensor.name: np.ascontiguousarray(array, NUMPY[tensor.dtype]) for tensor, array in pairs}


def outputs(arrays: Sequence[NDArray[np.generic]]) -> list[Array]:
    """What a network answers, in the float32 that the mathematics reads."""
    return [array.astype(np.float32, copy=False) for array in arrays]


def pixels(decoded: Sequence[Array]) -> Array:
    """The decoder's picture of one row, clipped to [-1, 1]."""
    return cast(Array, np.clip(decoded[0][0], -1.0, 1.0))


def blank_row(model: ModelDescription, role: str, size: tuple[int, int] | None = None) -> Inputs:
    """One row of zeros for a network at a size (default: the model's); dynamic dimensions are height, then width."""
    width, height = (side // model.latent.factor for side in size or model.sizes[0])
    inputs = {}
    for tensor in model.networks[role].inputs:
        sides = iter((height, width))
        shape = [next(sides) if dim == -1 else dim for dim in tensor.shape]
        inputs[tensor.name] = np.zeros((1, *shape), NUMPY[tensor.dtype])
    return inputs
