"""The upsampler: a diffusion transformer over one block of pixels that sees the blocks above and to the left.

Inf-DiT (Yang et al. 2024) in small. Blocks attend to themselves and to the keys and values of the blocks to their left,
above, and above left (unidirectional block attention), so that any picture is sampled block by block in bounded
memory. It denoises what the picture has beyond ``base``, the low-resolution picture enlarged by Lanczos' kernel:
D(x, sigma) = base + c_skip (x - base) + c_out F(c_in (x - base)), with Karras et al. 2022, table 1.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

# The one order of sources everywhere: a block itself, then these, as (rows, columns) from it.
NEIGHBOURS = {"left": (0, -1), "top": (-1, 0), "top_left": (-1, -1)}
MASKED = -1e4  # added to the logits of a neighbour that is not there: its weight is exactly 0

Neighbours = Callable[[int, Tensor], tuple[Tensor, ...]]  # layer and own K/V -> K/V of the neighbours


@dataclass(frozen=True)
class Sizes:
    """Pixels, tokens and widths; ``sigma_data`` is the deviation of x0 - base."""

    block: int = 128
    factor: int = 4
    patch: int = 8
    lowres_patch: int = 8
    thumbnail: int = 32
    width: int = 256
    heads: int = 4
    layers: int = 4
    sigma_data: float = 0.05

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


def patches(pixels: Tensor, size: int) -> Tensor:
    """[B, C, h, w] -> [B, (h / size) (w / size), C size^2]."""
    return functional.pixel_unshuffle(pixels, size).flatten(2).mT


def grid(count: int, step: float, first: float) -> Tensor:
    """Row and column of count x count tokens, [count^2, 2]."""
    axis = first + step * torch.arange(count, dtype=torch.float64)
    return torch.cartesian_prod(axis, axis)


def angles(positions: Tensor, width: int) -> Tensor:
    """Rotary angles [..., width / 2] of positions [..., (row, column)] in tokens; half of them for each axis."""
    frequencies = 100.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    return (positions[..., None] * frequencies).flatten(-2)


class Turn(nn.Module):
    """Rotary position embedding (Su et al. 2021) by fixed angles, over the last axis."""

    def __init__(self, turned: Tensor) -> None:
        super().__init__()
        self.cos: Tensor
        self.sin: Tensor
        self.register_buffer("cos", turned.cos().float(), persistent=False)
        self.register_buffer("sin", turned.sin().float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        cos, sin = self.cos.to(x.dtype), self.sin.to(x.dtype)
        return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


class Attention(nn.Module):
    """Heads with normed queries and keys (Henry et al. 2020) and rotary positions."""

    def __init__(self, sizes: Sizes, turn_query: Turn, turn_key: Turn) -> None:
        super().__init__()
        width, head = sizes.width, sizes.head
        self.heads, self.turn_query, self.turn_key = sizes.heads, turn_query, turn_key
        self.query, self.key_value = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.query_norm, self.key_norm = nn.RMSNorm(head, 1e-6), nn.RMSNorm(head, 1e-6)
        self.out = nn.Linear(width, width)

    def queries(self, x: Tensor) -> Tensor:
        """[B, tokens, width] -> [B, heads, tokens, head]."""
        return self.turn_query(self._heads(self.query(x), self.query_norm))

    def keys_values(self, x: Tensor) -> Tensor:
        """[B, tokens, width] -> [B, 2, heads, tokens, head]."""
        key, value = self.key_value(x).chunk(2, -1)
        return torch.stack([self.turn_key(self._heads(key, self.key_norm)), self._heads(value)], 1)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
        mixed = functional.scaled_dot_product_attention(query, key, value, bias)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor, norm: nn.RMSNorm | None = None) -> Tensor:
        x = x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return x if norm is None else norm(x.to(norm.weight.dtype))  # autocast leaves norms alone


class Layer(nn.Module):
    """Block attention and MLP under shift, scale and gate of the conditioning (adaLN-single, Chen et al. 2023)."""

    def __init__(self, sizes: Sizes, turn: Turn, turns: list[Turn]) -> None:
        """``turn`` is of a block's own tokens; ``turns`` move keys from a neighbour's frame into the block's."""
        super().__init__()
        width = sizes.width
        self.norm = nn.LayerNorm(width, 1e-6, elementwise_affine=False)
        self.attention = Attention(sizes, turn, turn)
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
        keys = [own[:, 0], *(turn(other[:, 0]) for turn, other in zip(self.turns, others, strict=bool(others)))]
        key = torch.cat([key + source for key, source in zip(keys, self.sources, strict=bool(others))], -2)
        value = torch.cat([own[:, 1], *(other[:, 1] for other in others)], -2)
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
        self.embed = nn.Linear(6 * s.patch**2, width)
        self.lowres = nn.Linear(3 * s.lowres_patch**2, width)
        self.norm = nn.LayerNorm(width, 1e-6, elementwise_affine=False)
        self.cross = Attention(s, turn, around)
        self.clock = nn.Sequential(nn.Linear(64, width), nn.SiLU(), nn.Linear(width, width))
        self.thumbnail = nn.Sequential(nn.Linear(3 * 64, width), nn.SiLU(), nn.Linear(width, width))
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.layers = nn.ModuleList(Layer(s, turn, turns) for _ in range(s.layers))
        self.end = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))
        self.out = nn.Linear(width, 3 * s.patch**2)
        for last in (self.modulation[-1], self.end[-1], self.out):  # at first, what is beyond the base is 0
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
        return self._denoise(
            sample, sigma, base, lowres, self._global(sigma, thumbnail), present,
            lambda layer, _: tuple(cache[:, layer] for cache in given),
        )  # fmt: skip

    def picture(self, sample: Tensor, sigma: Tensor, base: Tensor, lowres: Tensor, thumbnail: Tensor) -> Tensor:
        """One evaluation of whole pictures -> x0. sample, base [B, 3, H, W]; lowres has a margin of one block."""
        s, (batch, _, height, width) = self.sizes, sample.shape
        rows, columns = height // s.block, width // s.block
        count = rows * columns

        def blocks(pixels: Tensor, size: int, stride: int) -> Tensor:
            return pixels.unfold(2, size, stride).unfold(3, size, stride).movedim(1, 3).flatten(0, 2)

        def shifted(_: int, own: Tensor) -> tuple[Tensor, ...]:
            if count == 1:
                return ()  # a quarter of the keys, and the same result as with three that weigh nothing
            tiled = own.unflatten(0, (batch, rows, columns))
            return tuple(tiled.roll((-down, -right), (1, 2)).flatten(0, 2) for down, right in NEIGHBOURS.values())

        places = product(range(rows), range(columns))
        there = [[r + down >= 0 and c + right >= 0 for down, right in NEIGHBOURS.values()] for r, c in places]
        present = torch.tensor(there, dtype=sample.dtype, device=sample.device).repeat(batch, 1) if count > 1 else None
        x0, _ = self._denoise(
            blocks(sample, s.block, s.block), sigma.repeat_interleave(count), blocks(base, s.block, s.block),
            blocks(lowres, s.window, s.window // 3), self._global(sigma, thumbnail).repeat_interleave(count, 0),
            present, shifted,
        )  # fmt: skip
        return x0.unflatten(0, (batch, rows, columns)).movedim(3, 1).movedim(4, 3).flatten(4).flatten(2, 3)

    def _global(self, sigma: Tensor, thumbnail: Tensor) -> Tensor:
        """What all blocks share, [B, width]: noise level and a pooled embedding of the whole picture."""
        dtype = self.embed.weight.dtype
        frequencies = torch.linspace(0.1, 4, 32, device=sigma.device)
        phases = (sigma / self.sizes.sigma_data).log()[:, None] * frequencies
        clock = self.clock(torch.cat([phases.cos(), phases.sin()], -1).to(dtype))
        return clock + self.thumbnail(patches(thumbnail.to(dtype), 8)).mean(1)

    def _denoise(
        self, sample: Tensor, sigma: Tensor, base: Tensor, lowres: Tensor, shared: Tensor,
        present: Tensor | None, neighbours: Neighbours,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        s, dtype = self.sizes, self.embed.weight.dtype
        variance = (sigma**2 + s.sigma_data**2)[:, None, None, None]
        beyond = sample - base
        seen = torch.cat([beyond * variance.rsqrt(), base], 1).to(dtype)
        x = self.embed(patches(seen, s.patch))
        around = self.cross.keys_values(self.lowres(patches(lowres.to(dtype), s.lowres_patch)))
        x = x + self.cross.attend(self.cross.queries(self.norm(x)), *around.unbind(1))
        modulation = self.modulation(shared).unflatten(1, (6, -1))
        bias = None if present is None else self._bias(present.to(dtype))
        caches = []
        for index, layer in enumerate(self.layers):
            x, own = layer(x, modulation, bias, lambda own, index=index: neighbours(index, own))
            caches.append(own)
        shift, scale = self.end(shared)[:, None].chunk(2, -1)
        out = self.out(self.norm(x) * (1 + scale) + shift)
        change = functional.pixel_shuffle(out.mT.unflatten(2, (s.side, s.side)), s.patch).to(sample.dtype)
        skip, scale = s.sigma_data**2 / variance, sigma[:, None, None, None] * s.sigma_data * variance.rsqrt()
        return base + skip * beyond + scale * change, torch.stack(caches, 1)

    def _bias(self, present: Tensor) -> Tensor:
        """What hides the keys of absent neighbours, [B, 1, 1, sources x tokens]."""
        there = torch.cat([torch.ones_like(present[:, :1]), present], 1)
        return ((1 - there) * MASKED)[:, :, None].expand(-1, -1, self.sizes.side**2).flatten(1)[:, None, None]
