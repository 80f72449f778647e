"""The network in torch: all blocks at once, block by block, and the definition written another way."""

import numpy as np
import pytest
import torch

from service.upscaling import blocks, lanczos
from service.upscaling.blocks import Grid, Place
from tests.upscaling import oracle
from training.upsampler import Upsampler

SIDE, BLOCK = 4, 16


@pytest.mark.parametrize(("height", "width"), [(2, 3), (1, 1)])
def test_all_at_once_is_block_by_block_is_the_definition(network: Upsampler, height: int, width: int) -> None:
    lowres = np.random.default_rng(0).integers(0, 256, (height * SIDE, width * SIDE, 3), np.uint8)
    enlarged = np.concatenate([step.rows for step in lanczos.enlarge(lowres, 4)])
    framed = np.pad(lowres, ((SIDE, SIDE), (SIDE, SIDE), (0, 0)), "edge")
    parts = (enlarged, framed, lanczos.thumbnail(lowres, 8))
    base, around, small = (torch.from_numpy(blocks.scaled(part))[None] for part in parts)
    sigma = torch.tensor([0.7])
    x = base + sigma * torch.randn(base.shape, generator=torch.Generator().manual_seed(1))
    together = network.picture(x, sigma, base, around, small)

    caches: dict[Place | None, torch.Tensor] = {}
    for place in [(row, column) for row in range(height) for column in range(width)]:
        rows, columns = (slice(at * BLOCK, (at + 1) * BLOCK) for at in place)
        seen = [caches.get(other) for other in Grid(height, width).neighbours(place)]
        present = torch.tensor([[float(cache is not None) for cache in seen]])
        given = [torch.zeros(1, *network.sizes.cache) if cache is None else cache for cache in seen]
        window = torch.from_numpy(blocks.window(lowres, place, SIDE))[None]
        alone, caches[place] = network(
            x[..., rows, columns], sigma, base[..., rows, columns], window, small, present, *given
        )
        torch.testing.assert_close(alone, together[..., rows, columns], rtol=0, atol=1e-5)
    inputs = (value[0].double() for value in (x, base, around, small))
    x, base, around, small = inputs
    expected = oracle.denoised(network.double(), x, sigma.double(), base, around, small)
    network.float()
    torch.testing.assert_close(together[0].double(), expected, rtol=0, atol=1e-5)
