"""A decoder that starts as the exact inverse of a linear patch transform; sub-pixel convolutions learn what it lacks.

AutoencoderKL's decoder cannot start there: nearest upsampling and convolutions make a uniform picture of a uniform
latent, whatever their weights, because inside a patch they cannot tell left from right. Sub-pixel convolutions (Shi
et al. 2016) can, and work at low resolution, where they are cheap.
"""

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput
from torch import Tensor, nn


class Residual(nn.Module):
    """Pre-activation block (He et al. 2016) at constant resolution; the identity at the start."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.GroupNorm(groups, channels) for _ in range(2))
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(nn.functional.silu(self.norm1(x)))
        return x + self.conv2(nn.functional.silu(self.norm2(h)))


class SubpixelDecoder(ModelMixin, ConfigMixin):
    """Latent (n, c, h, w) -> pixels (n, 3, 2^k h, 2^k w): a linear map of every cell plus a learned correction.

    Levels are listed from the picture's resolution to the latent's, as diffusers' autoencoders list them. Where the
    list begins with zeros there are no features: the last shuffle passes over those resolutions.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        latent_channels: int,
        block_out_channels: tuple[int, ...],
        layers_per_block: tuple[int, ...],
        norm_num_groups: int = 8,
        out_channels: int = 3,
        scaling_factor: float = 1.0,  # noqa: ARG002 - this and what follows is for pipelines to read
        shift_factor: float | None = None,  # noqa: ARG002
        force_upcast: bool = False,  # noqa: ARG002
    ) -> None:
        super().__init__()
        patch = 2 ** (len(block_out_channels) - 1)
        self.linear = nn.Conv2d(latent_channels, out_channels * patch**2, 1)
        self.shuffle = nn.PixelShuffle(patch)
        widths = [width for width in reversed(block_out_channels) if width]
        last = 2 ** (len(block_out_channels) - len(widths))
        correction: list[nn.Module] = [nn.Conv2d(latent_channels, widths[0], 3, padding=1)]
        for level, count in enumerate(layers_per_block[: -len(widths) - 1 : -1]):
            if level:
                correction += [nn.Conv2d(widths[level - 1], 4 * widths[level], 3, padding=1), nn.PixelShuffle(2)]
            correction += [Residual(widths[level], norm_num_groups) for _ in range(count)]
        correction += [nn.GroupNorm(norm_num_groups, widths[-1]), nn.SiLU()]
        self.correction = nn.Sequential(*correction)
        self.conv_out = nn.Conv2d(widths[-1], out_channels * last**2, 3, padding=1)
        self.shuffle_out = nn.PixelShuffle(last)
        for p in self.conv_out.parameters():  # at first there is no correction
            nn.init.zeros_(p)

    def set_linear(self, synthesis: Tensor, mean: Tensor) -> None:
        """Make the linear map z @ synthesis + mean, (c, d) and (d,), where d counts rows, columns and colours."""
        side, colours = self.shuffle.upscale_factor, self.config.out_channels
        by_colour = torch.arange(len(mean)).reshape(side, side, colours).permute(2, 0, 1).flatten()
        self.linear.load_state_dict({"weight": synthesis[:, by_colour].T[:, :, None, None], "bias": mean[by_colour]})

    def decode(
        self,
        z: Tensor,
        return_dict: bool = True,
        generator: torch.Generator | None = None,  # noqa: ARG002 - nothing is drawn
    ) -> DecoderOutput | tuple[Tensor]:
        """Pixels in about [-1, 1], in the form that diffusers' pipelines expect of an autoencoder."""
        pixels = self.shuffle(self.linear(z)) + self.shuffle_out(self.conv_out(self.correction(z)))
        return DecoderOutput(sample=pixels) if return_dict else (pixels,)
