"""The denoisers of the known families."""

from typing import Any

import torch

from export.networks import Denoiser, Port


class Unet(Denoiser):
    """Stable Diffusion 1 and 2."""

    def __init__(self, role: str, module: Any, conditioning: tuple[Port, ...]) -> None:
        super().__init__(role, module, conditioning)
        self.multiple = 2 ** (len(module.config.block_out_channels) - 1)

    def forward(
        self, sample: torch.Tensor, timestep: torch.Tensor, encoder_hidden_states: torch.Tensor
    ) -> torch.Tensor:
        return self.module(sample, timestep, encoder_hidden_states, return_dict=False)[0]


class UnetXl(Unet):
    """SDXL, told that the picture was never larger nor cropped (Podell et al. 2023, section 2.2)."""

    def __init__(self, role: str, module: Any, conditioning: tuple[Port, ...], factor: int) -> None:
        super().__init__(role, module, conditioning)
        self.factor = factor

    def forward(  # type: ignore[override]
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        text_embeds: torch.Tensor,
    ) -> torch.Tensor:
        height, width = (torch.full((1,), float(self.factor)) * side for side in sample.shape[2:])
        corner = torch.zeros(2)
        sizes = torch.cat([height, width, corner, height, width])  # original size, crop, target size
        added = {"text_embeds": text_embeds, "time_ids": sizes.expand(sample.shape[0], -1)}
        return self.module(sample, timestep, encoder_hidden_states, added_cond_kwargs=added, return_dict=False)[0]


class PixArt(Denoiser):
    """PixArt-Sigma, without the half of its output that predicts variances."""

    def __init__(self, role: str, module: Any, conditioning: tuple[Port, ...]) -> None:
        super().__init__(role, module, conditioning)
        self.multiple = module.config.patch_size
        module.pos_embed.height = module.pos_embed.width = -1  # no table of one size: positions are always computed

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        encoder_attention_mask: torch.Tensor,
    ) -> torch.Tensor:
        output = self.module(
            sample,
            encoder_hidden_states=encoder_hidden_states,
            timestep=timestep,
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
            encoder_attention_mask=encoder_attention_mask,
            return_dict=False,
        )[0]
        return output[:, : self.module.config.in_channels]


class CroppedPatches(torch.nn.Module):
    """diffusers' ``PatchEmbed`` with a table of positions, its middle found by tensors.

    The crop's first index, (table - size) // 2, is exported with the sign of its parts exchanged if sizes are symbols.
    """

    def __init__(self, original: Any) -> None:
        super().__init__()
        self.proj = original.proj
        self.side = original.pos_embed_max_size
        self.pos_embed: torch.Tensor
        self.register_buffer("pos_embed", original.pos_embed)

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        patches = self.proj(latent).movedim(1, -1)  # [batch, height, width, channels]
        table = self.pos_embed.unflatten(1, (self.side, self.side))
        rows, columns = (self._middle(count) for count in patches.shape[1:3])
        return (patches + table[:, rows][:, :, columns]).flatten(1, 2)

    def _middle(self, count: int) -> torch.Tensor:
        first = (self.side - torch.full((1,), count)) // 2
        return first + torch.arange(count)


class StableDiffusion3(Denoiser):
    """Stable Diffusion 3's MMDiT."""

    def __init__(self, role: str, module: Any, conditioning: tuple[Port, ...]) -> None:
        super().__init__(role, module, conditioning)
        self.multiple = module.config.patch_size
        self.limit = module.config.pos_embed_max_size
        module.pos_embed = CroppedPatches(module.pos_embed)

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        pooled_projections: torch.Tensor,
    ) -> torch.Tensor:
        return self.module(sample, encoder_hidden_states, pooled_projections, timestep, return_dict=False)[0]
