"""One evaluation of the upsampler: a block of pixels, what it sees of the picture, K/V in and out."""

from typing import Any, Literal

from torch import Tensor

from export.networks import DTYPES, Network, Port, Precision, Tensors


class Upsampler(Network):
    """Around a module with ``sizes`` and the signature below; ``cache`` is what keys and values travel in."""

    role = "upsampler"

    def __init__(self, module: Any, cache: Literal["fp32", "fp16"] = "fp16") -> None:
        s = module.sizes
        block, window, thumbnail = ((3, side, side) for side in (s.block, s.window, s.thumbnail))
        ports = {"sample": block, "sigma": (), "base": block, "lowres": window, "thumbnail": thumbnail, "present": (3,)}
        inputs = tuple(Port(name, axes, below=1.0 if name == "sigma" else None) for name, axes in ports.items())
        caches = tuple(Port(name, s.cache, cache) for name in ("left", "top", "top_left"))
        super().__init__({"upsampler": module}, (*inputs, *caches), (Port("x0", block), Port("cache", s.cache, cache)))

    def compute_in(self, precision: Precision) -> None:
        """The ports stay: noise level and pixels are exact around whatever the layers compute in."""
        self.precision = precision
        self.module.to(DTYPES[precision])

    def forward(
        self, sample: Tensor, sigma: Tensor, base: Tensor, lowres: Tensor, thumbnail: Tensor,
        present: Tensor, left: Tensor, top: Tensor, top_left: Tensor,
    ) -> Tensors:  # fmt: skip
        x0, cache = self.module(sample, sigma, base, lowres, thumbnail, present, left, top, top_left)
        return x0, cache.to(DTYPES[self.outputs[1].dtype])
