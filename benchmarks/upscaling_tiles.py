"""What decoding a large latent in tiles would cost in exactness: python -m benchmarks.upscaling tiles."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from service.engines.contract import Ticket
from service.engines.embedded import EmbeddedEngine
from service.pipeline import generate
from service.recipe import Overrides, load_presets, resolve
from training.autoencoder import Pca


def latent(engine: EmbeddedEngine, model: str, pca: Pca, factor: int) -> Tensor:
    """Of a picture of the model, enlarged by Lanczos' kernel: [1, C, h, w]."""
    asked = Overrides(model=model, prompt="a red ball in the desert at sunset", seed=7)
    recipe = resolve(asked, load_presets(), engine.models, engine.name, engine.precision)
    picture = Image.fromarray(generate(engine, recipe, Ticket()).pixels)
    large = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.LANCZOS)
    return torch.from_numpy(pca.encode(np.asarray(large)[None])) / pca.scaling_factor


def reach(vae: Any, z: Tensor) -> int:
    """Columns of a latent that the last pixel depends on."""
    z = z.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(vae.decode(z).sample[..., -1, -1].sum(), z)
    return int((gradient[0] != 0).any(0).any(0).sum())


@contextmanager
def frozen(vae: Any, z: Tensor) -> Iterator[None]:
    """Whatever the decoder is given, its norms take mean and variance from this latent."""
    known: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def normed(norm: Any, given: tuple[Tensor, ...], _: Tensor) -> Tensor:
        groups = given[0].unflatten(1, (norm.num_groups, -1))
        if norm not in known:
            axes = tuple(range(2, groups.dim()))
            known[norm] = groups.mean(axes, keepdim=True), groups.var(axes, correction=0, keepdim=True)
        mean, variance = known[norm]
        x = ((groups - mean) / (variance + norm.eps).sqrt()).flatten(1, 2)
        weight, bias = (parameter.view(-1, *[1] * (x.dim() - 2)) for parameter in (norm.weight, norm.bias))
        return x * weight + bias

    norms = [module for module in vae.modules() if isinstance(module, nn.GroupNorm)]
    hooks = [norm.register_forward_hook(normed) for norm in norms]
    with torch.no_grad():
        vae.decode(z)
    yield
    for hook in hooks:
        hook.remove()


def errors(vae: Any, z: Tensor, tile: int, margins: tuple[int, ...]) -> Iterator[tuple[int, float, int]]:
    """For tiles of ``tile`` cells with these margins around them: the mean and the highest error, of 255 levels."""
    whole = _pixels(vae, z)
    for margin in margins:
        difference = np.abs(_tiled(vae, z, tile, margin).astype(int) - whole)
        yield margin, float(difference.mean()), int(difference.max())


def _tiled(vae: Any, z: Tensor, tile: int, margin: int) -> NDArray[np.uint8]:
    """Every tile from the decoder with its margin, which is then cut off."""
    height, width = z.shape[2:]
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    whole = np.empty((height * factor, width * factor, 3), np.uint8)
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            y, x = max(top - margin, 0), max(left - margin, 0)
            seen = _pixels(vae, z[:, :, y : top + tile + margin, x : left + tile + margin])
            rows, columns = (slice(start * factor, (start + tile) * factor) for start in (top, left))
            whole[rows, columns] = seen[(top - y) * factor :, (left - x) * factor :][: tile * factor, : tile * factor]
    return whole


@torch.no_grad()
def _pixels(vae: Any, z: Tensor) -> NDArray[np.uint8]:
    made = vae.decode(z).sample[0].permute(1, 2, 0).numpy()
    return np.round(np.clip(made / 2 + 0.5, 0, 1) * 255).astype(np.uint8)
