"""Attention over patches of pixels with rotary positions: of a picture's own tokens or of another's."""

import torch
from torch import Tensor, nn
from torch.nn import functional


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

    def __init__(self, width: int, heads: int, turn_query: Turn, turn_key: Turn) -> None:
        super().__init__()
        head = width // heads
        self.heads, self.turn_query, self.turn_key = heads, turn_query, turn_key
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
        """In the open: torch's fused kernel is slow backwards on a CPU."""
        logits = query @ key.mT * query.shape[-1] ** -0.5
        weights = (logits if bias is None else logits + bias).softmax(-1).to(value.dtype)
        return self.out((weights @ value).transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor, norm: nn.RMSNorm | None = None) -> Tensor:
        x = x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return x if norm is None else norm(x.to(norm.weight.dtype))  # autocast leaves norms alone
