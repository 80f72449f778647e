"""The upsampler over a whole picture at once, in double precision: all tokens in one sequence, under a mask.

Written from the definition: rotary positions are those in the picture, as complex numbers; who may attend to whom is a
mask over pairs of tokens. Nothing is cut into blocks.
"""

from copy import deepcopy
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from service.upscaling import blocks, lanczos
from training.attention import Attention, angles, patches
from training.upsampler import Upsampler


def sampled(net: Upsampler, lowres: np.ndarray, sigmas: tuple[float, ...], seed: int) -> np.ndarray:
    """Euler's steps of the whole picture, padded to whole blocks: [3, H, W]."""
    net, s = deepcopy(net).double(), net.sizes
    side = s.block // s.factor
    full = blocks.padded(lowres, side)
    framed = np.pad(full, ((side, side), (side, side), (0, 0)), "edge")
    enlarged = np.concatenate([step.rows for step in lanczos.enlarge(full, s.factor)])
    base, around, thumbnail = (
        torch.from_numpy(blocks.scaled(pixels)).double()
        for pixels in (enlarged, framed, lanczos.thumbnail(lowres, s.thumbnail))
    )
    noise = [
        [blocks.noise(seed, (row, column), s.block) for column in range(full.shape[1] // side)]
        for row in range(full.shape[0] // side)
    ]
    x = base + sigmas[0] * torch.from_numpy(np.concatenate([np.concatenate(row, 2) for row in noise], 1))
    for sigma, after in pairwise(sigmas):
        x0 = denoised(net, x, torch.tensor([sigma]).double(), base, around, thumbnail)
        x = x0 + after * (x - x0) / sigma
    return x.numpy()


def denoised(net: Upsampler, x: Tensor, sigma: Tensor, base: Tensor, around: Tensor, thumbnail: Tensor) -> Tensor:
    s = net.sizes
    rows, columns = x.shape[1] // s.patch, x.shape[2] // s.patch
    here = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))
    across = s.lowres_patch * s.factor // s.patch  # tokens of the picture along one of the low-resolution picture
    there = torch.cartesian_prod(*(torch.arange(length // s.lowres_patch) for length in around.shape[1:]))
    block, other = here // s.side, there // (s.side // across) - 1
    near = ((other[None] - block[:, None]).abs() <= 1).all(-1)
    centres = there * across + (across - 1) / 2 - s.side
    offset = block[None] - block[:, None]  # of the key's block from the query's
    sources = [(offset == torch.tensor(at)).all(-1) for at in ((0, 0), (0, -1), (-1, 0), (-1, -1))]

    deviation = (sigma**2 + s.sigma_data**2).sqrt()
    features, correction = net.drafter(around[None])
    side, factor = s.block // s.factor, s.factor
    draft = base + correction[0, :, side * factor : -side * factor, side * factor : -side * factor]
    local = patches(features[..., side:-side, side:-side], s.patch // factor)[0]
    seen = torch.cat([(x - draft) * s.sigma_data / deviation**2, draft])
    tokens = net.embed(patches(seen[None], s.patch)[0]) + net.local(local)
    lowres = net.lowres(patches(around[None], s.lowres_patch)[0])
    query, key, value = parts(net.cross, norm(tokens), lowres)
    scores = (turned(query, here) * turned(key, centres)[:, None].conj()).sum(-1).real
    tokens = tokens + attended(net.cross, scores, near, value)

    frequencies = torch.linspace(0.1, 4, 32)
    phases = (sigma / s.sigma_data).log() * frequencies
    shared = net.clock(torch.cat([phases.cos(), phases.sin()]))
    shared = shared + net.thumbnail(patches(thumbnail[None], 8)[0]).mean(0)
    for layer in net.layers:
        shift, scale, gate, *second = net.modulation(shared).view(6, -1) + layer.modulation
        h = norm(tokens) * (1 + scale) + shift
        query, key, value = parts(layer.attention, h, h)
        scores = (turned(query, here) * turned(key, here)[:, None].conj()).sum(-1).real
        for source, added in zip(sources, layer.sources, strict=True):
            inside = torch.view_as_real(turned(query, here % s.side)).movedim(-1, -2).flatten(-2)
            scores = scores + source * (inside[:, :, 0] @ added.mT)
        tokens = tokens + gate * attended(layer.attention, scores, torch.stack(sources).any(0), value)
        tokens = tokens + second[2] * layer.mlp(norm(tokens) * (1 + second[1]) + second[0])
    shift, scale = net.end(shared).chunk(2)
    change = net.out(norm(tokens) * (1 + scale) + shift).view(rows, columns, 3, s.patch, s.patch)
    change = change.permute(2, 0, 3, 1, 4).reshape(x.shape)
    refinement = (s.sigma_data / deviation) ** 2 * (x - draft) + sigma * s.sigma_data / deviation * change
    for at in (0, s.block - 1):
        refinement[:, at :: s.block, :] *= s.edge
        refinement[:, :, at :: s.block] *= s.edge
        refinement[:, at :: s.block, at :: s.block] /= s.edge  # a corner is outermost once
        refinement[:, at :: s.block, s.block - 1 - at :: s.block] /= s.edge
    return draft + refinement


def norm(x: Tensor) -> Tensor:
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, correction=0) + 1e-6).sqrt()


def parts(attention: Attention, x: Tensor, source: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries [heads, n, 1, head] of x, keys and values [heads, m, head] of its source; two of them normed."""

    def heads(y: Tensor) -> Tensor:
        return y.view(len(y), attention.heads, -1).transpose(0, 1)

    def normed(y: Tensor, weight: Tensor) -> Tensor:
        return y / (y.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight

    key, value = attention.key_value(source).chunk(2, -1)
    query = normed(heads(attention.query(x)), attention.query_norm.weight)
    return query[:, :, None], normed(heads(key), attention.key_norm.weight), heads(value)


def turned(x: Tensor, positions: Tensor) -> Tensor:
    """Pairs of channels as complex numbers, turned by their positions [n, 2]."""
    half = torch.complex(*x.chunk(2, -1))
    turn = torch.polar(torch.ones(()).double(), angles(positions.double(), x.shape[-1]))
    return half * (turn[:, None] if x.dim() == 4 else turn)


def attended(attention: Attention, scores: Tensor, allowed: Tensor, value: Tensor) -> Tensor:
    weights = (scores / value.shape[-1] ** 0.5).masked_fill(~allowed, -torch.inf).softmax(-1)
    return attention.out((weights @ value).transpose(0, 1).flatten(1))
