"""The upsampler: a diffusion transformer over one block of pixels that sees the blocks above and to the left.

Inf-DiT (Yang et al. 2024) in small. Blocks attend to themselves and to the keys and values of the blocks to their left,
above, and above left (unidirectional block attention), so that any picture is sampled block by block in bounded
memory. Convolutions draft a block, Lanczos' enlargement + their correction, and diffusion refines it ("predict and
refine", Whang et al. 2022): D(x, sigma) = draft + c_skip (x - draft) + c_out F(c_skip (x - draft) / sigma_data), with
Karras et al. 2022, table 1. Their c_in would show F noise of unit deviation where it says nothing of the picture, and
some of it would remain in x0; c_skip shows what of x - draft is to be believed.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.attention import Attention, Turn, angles, grid, patches

# The one order of sources everywhere: a block itself, then these, as (rows, columns) from it.
NEIGHBOURS = {"left": (0, -1), "top": (-1, 0), "top_left": (-1, -1)}
MASKED = -1e4  # added to the logits of a neighbour that is not there: its weight is exactly 0

Neighbours = Callable[[int, Tensor], tuple[Tensor, ...]]  # layer and own K/V -> K/V of the neighbours


@dataclass(frozen=True)
class Sizes:
    """Pixels, tokens and widths; ``sigma_data`` is the deviation of x0 - draft.

    ``edge`` is the share of the refinement that a block's outermost pixels take: those beyond them err on their own.
    """

    block: int = 128
    factor: int = 4
    patch: int = 8
    lowres_patch: int = 8
    thumbnail: int = 32
    width: int = 256
    heads: int = 4
    layers: int = 4
    channels: int = 64
    residuals: int = 3
    sigma_data: float = 0.05
    edge: float = 1.0

    @property
    def reach(self) -> int:
        """Low-resolution pixels around its own that the convolutions of a block see."""
        return 2 * self.residuals + 2

    @property
    def side(self) -> int:
        """Tokens along a block."""
        return self.block // self.patch

    @property
    def head(self) -> int:
        """Width of a head."""
        return self.width // self.heads

    @property
    def window(self) -> int:
        """Low-resolution pixels along the 3 x 3 blocks that a block sees."""
        return 3 * self.block // self.factor

    @property
    def cache(self) -> tuple[int, ...]:
        """Keys and values of one block: [layers, 2, heads, tokens, width of a head]."""
        return (self.layers, 2, self.heads, self.side**2, self.head)


def shares(side: int, edge: float) -> Tensor:
    """What a block's pixels take of its refinement, [side, side]: all of it, but for the outermost."""
    inside = torch.ones(side - 2, side - 2)
    return functional.pad(inside, (1, 1, 1, 1), value=edge)


def _without(margin: int) -> tuple[Any, ...]:
    """The index of pictures without their margin."""
    inside = slice(margin, -margin or None)
    return ..., inside, inside


class Drafter(nn.Module):
    """Sub-pixel convolutions (Shi et al. 2016): low-resolution pixels -> features and what their enlargement lacks."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        c = sizes.channels
        self.head = nn.Conv2d(3, c, 3, padding=1)
        self.body = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, c, 3, padding=1), nn.SiLU(), nn.Conv2d(c, c, 3, padding=1))
            for _ in range(sizes.residuals)
        )
        self.tail = nn.Conv2d(c, 3 * sizes.factor**2, 3, padding=1)
        self.shuffle = nn.PixelShuffle(sizes.factor)

    def forward(self, lowres: Tensor) -> tuple[Tensor, Tensor]:
        """[B, 3, h, w] -> [B, channels, h, w] and [B, 3, factor h, factor w]."""
        x = self.head(lowres)
        for layer in self.body:
            x = x + layer(x)
        return x, self.shuffle(self.tail(x))


class Layer(nn.Module):
    """Block attention and MLP under shift, scale and gate of the conditioning (adaLN-single, Chen et al. 2023)."""

    def __init__(self, sizes: Sizes, turn: Turn, turns: list[Turn]) -> None:
        """``turn`` is of a block's own tokens; ``turns`` move keys from a neighbour's frame into the block's."""
        super().__init__()
        width = sizes.width
        self.norm = nn.LayerNorm(width, 1e-6, elementwise_affine=False)
        self.attention = Attention(width, sizes.heads, turn, turn)
        self.turns = nn.ModuleList(turns)
        self.sources = nn.Parameter(torch.zeros(1 + len(turns), sizes.heads, 1, sizes.head))
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))
        self.modulation = nn.Parameter(torch.randn(6, width) / width**0.5)

    def forward(
        self, x: Tensor, modulation: Tensor, bias: Tensor | None, neighbours: Callable[[Tensor], tuple[Tensor, ...]]
    ) -> tuple[Tensor, Tensor]:
        """Tokens [B, n, width], modulation [B, 6, width] -> tokens and their K/V [B, 2, heads, n, head].

        Without neighbours at all there is no bias either.
        """
        shift, scale, gate, shift2, scale2, gate2 = (modulation + self.modulation)[:, :, None].unbind(1)
        h = self.norm(x) * (1 + scale) + shift
        own = self.attention.keys_values(h)
        others = neighbours(own)
        keys, values = zip(*(source.unbind(1) for source in (own, *others)), strict=True)
        turned = [keys[0], *(turn(key) for turn, key in zip(self.turns, keys[1:], strict=bool(others)))]
        key = torch.cat([key + source for key, source in zip(turned, self.sources, strict=bool(others))], -2)
        value = torch.cat(values, -2)
        x = x + gate * self.attention.attend(self.attention.queries(h), key, value, bias)
        return x + gate2 * self.mlp(self.norm(x) * (1 + scale2) + shift2), own


class Upsampler(nn.Module):
    """The denoiser of one block: ``forward``; ``picture`` is the same for all blocks of a picture at once."""

    def __init__(self, **sizes: Any) -> None:
        super().__init__()
        self.sizes = s = Sizes(**sizes)
        self.config = asdict(s)
        width, step = s.width, s.lowres_patch * s.factor / s.patch  # tokens of a block in one of its surroundings
        turn, around, *turns = (
            Turn(angles(positions, s.head))
            for positions in (
                grid(s.side, 1, 0),
                grid(s.window // s.lowres_patch, step, (step - 1) / 2 - s.side),
                *(s.side * torch.tensor(list(NEIGHBOURS.values()))),
            )
        )
        self.drafter = Drafter(s)
        self.embed = nn.Linear(6 * s.patch**2, width)
        self.local = nn.Linear(s.channels * (s.patch // s.factor) ** 2, width)
        self.lowres = nn.Linear(3 * s.lowres_patch**2, width)
        self.norm = nn.LayerNorm(width, 1e-6, elementwise_affine=False)
        self.cross = Attention(width, s.heads, turn, around)
        self.clock = nn.Sequential(nn.Linear(64, width), nn.SiLU(), nn.Linear(width, width))
        self.thumbnail = nn.Sequential(nn.Linear(3 * 64, width), nn.SiLU(), nn.Linear(width, width))
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.layers = nn.ModuleList(Layer(s, turn, turns) for _ in range(s.layers))
        self.end = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))
        self.out = nn.Linear(width, 3 * s.patch**2)
        self.shares: Tensor
        self.register_buffer("shares", shares(s.block, s.edge), persistent=False)
        for last in (self.drafter.tail, self.local, self.modulation[-1], self.end[-1], self.out):  # at first x0 = base
            for parameter in last.parameters():
                nn.init.zeros_(parameter)

    def forward(
        self, sample: Tensor, sigma: Tensor, base: Tensor, lowres: Tensor, thumbnail: Tensor,
        present: Tensor, left: Tensor, top: Tensor, top_left: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """One evaluation of blocks that know nothing of each other: x0 and their keys and values.

        sample, base [B, 3, block, block], sigma [B], lowres [B, 3, window, window], thumbnail [B, 3, t, t];
        present [B, 3] is 1 for a neighbour that exists, else 0; the neighbours' K/V [B, *sizes.cache].
        """
        dtype = self.embed.weight.dtype
        given = [cache.to(dtype) for cache in (left, top, top_left)]
        features, draft = self._drafted(base, lowres)
        return self._denoise(
            sample, sigma, draft, features, lowres, self._global(sigma, thumbnail), present,
            lambda layer, _: tuple(cache[:, layer] for cache in given),
        )  # fmt: skip

    def picture(
        self, sample: Tensor, sigma: Tensor, base: Tensor, lowres: Tensor, thumbnail: Tensor, alone: bool = False
    ) -> Tensor:
        """One evaluation of whole pictures -> x0. sample, base [B, 3, H, W]; lowres has a margin of one block.

        ``alone``: as if no block had neighbours.
        """
        s, (batch, _, height, width) = self.sizes, sample.shape
        rows, columns = height // s.block, width // s.block
        count = rows * columns
        alone = alone or count == 1

        def blocks(pixels: Tensor, size: int, stride: int) -> Tensor:
            return pixels.unfold(2, size, stride).unfold(3, size, stride).movedim(1, 3).flatten(0, 2)

        def shifted(_: int, own: Tensor) -> tuple[Tensor, ...]:
            if alone:
                return ()  # a quarter of the keys, and the same result as with three that weigh nothing
            tiled = own.unflatten(0, (batch, rows, columns))
            return tuple(tiled.roll((-down, -right), (1, 2)).flatten(0, 2) for down, right in NEIGHBOURS.values())

        places = product(range(rows), range(columns))
        there = [[r + down >= 0 and c + right >= 0 for down, right in NEIGHBOURS.values()] for r, c in places]
        present = torch.tensor(there, dtype=sample.dtype, device=sample.device).repeat(batch, 1)
        features, draft = self._drafted(base, lowres)
        x0, _ = self._denoise(
            blocks(sample, s.block, s.block), sigma.repeat_interleave(count), blocks(draft, s.block, s.block),
            blocks(features, s.window // 3, s.window // 3), blocks(lowres, s.window, s.window // 3),
            self._global(sigma, thumbnail).repeat_interleave(count, 0),
            None if alone else present, shifted,
        )  # fmt: skip
        return x0.unflatten(0, (batch, rows, columns)).movedim(3, 1).movedim(4, 3).flatten(4).flatten(2, 3)

    def draft(self, base: Tensor, lowres: Tensor) -> Tensor:
        """What diffusion starts from, like base."""
        return self._drafted(base, lowres)[1]

    def _drafted(self, base: Tensor, lowres: Tensor) -> tuple[Tensor, Tensor]:
        """Features of every low-resolution pixel without the margin, [B, channels, h, w], and the draft, like base."""
        s, margin = self.sizes, self.sizes.window // 3
        around, inside = (_without(side) for side in (margin - s.reach, s.reach))
        features, correction = self.drafter(lowres[around].to(self.embed.weight.dtype))
        return features[inside], base + correction[_without(s.reach * s.factor)].to(base.dtype)

    def _global(self, sigma: Tensor, thumbnail: Tensor) -> Tensor:
        """What all blocks share, [B, width]: noise level and a pooled embedding of the whole picture."""
        dtype = self.embed.weight.dtype
        frequencies = torch.linspace(0.1, 4, 32, device=sigma.device)
        phases = (sigma / self.sizes.sigma_data).log()[:, None] * frequencies
        clock = self.clock(torch.cat([phases.cos(), phases.sin()], -1).to(dtype))
        return clock + self.thumbnail(patches(thumbnail.to(dtype), 8)).mean(1)

    def _denoise(
        self, sample: Tensor, sigma: Tensor, draft: Tensor, features: Tensor, lowres: Tensor, shared: Tensor,
        present: Tensor | None, neighbours: Neighbours,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        s, dtype = self.sizes, self.embed.weight.dtype
        variance = (sigma**2 + s.sigma_data**2)[:, None, None, None]
        beyond = sample - draft
        skip, scale = s.sigma_data**2 / variance, sigma[:, None, None, None] * s.sigma_data * variance.rsqrt()
        seen = torch.cat([beyond * skip / s.sigma_data, draft], 1).to(dtype)
        x = self.embed(patches(seen, s.patch)) + self.local(patches(features, s.patch // s.factor))
        around = self.cross.keys_values(self.lowres(patches(lowres.to(dtype), s.lowres_patch)))
        x = x + self.cross.attend(self.cross.queries(self.norm(x)), *around.unbind(1))
        modulation = self.modulation(shared).unflatten(1, (6, -1))
        bias = None if present is None else self._bias(present.to(dtype))
        caches = []
        for index, layer in enumerate(self.layers):
            x, own = layer(x, modulation, bias, lambda own, index=index: neighbours(index, own))
            caches.append(own)
        shift, gain = self.end(shared)[:, None].chunk(2, -1)
        out = self.out(self.norm(x) * (1 + gain) + shift)
        change = functional.pixel_shuffle(out.mT.unflatten(2, (s.side, s.side)), s.patch).to(sample.dtype)
        return draft + self.shares * (skip * beyond + scale * change), torch.stack(caches, 1)

    def _bias(self, present: Tensor) -> Tensor:
        """What hides the keys of absent neighbours, [B, 1, 1, sources x tokens]."""
        there = torch.cat([torch.ones_like(present[:, :1]), present], 1)
        return ((1 - there) * MASKED)[:, :, None].expand(-1, -1, self.sizes.side**2).flatten(1)[:, None, None]
