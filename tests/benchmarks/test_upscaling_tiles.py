"""Why decoding in tiles is not built: it would be exact without the norms, whose statistics are of the whole latent."""

import pytest
import torch
from diffusers import AutoencoderKL

from benchmarks.upscaling_tiles import errors, frozen, reach
from export.weights import rebuild
from service.settings import Settings


def small(*, attention: bool) -> AutoencoderKL:
    torch.manual_seed(0)
    levels = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    made = AutoencoderKL(
        **levels, block_out_channels=[8, 8], layers_per_block=1, norm_num_groups=4, mid_block_add_attention=attention
    )
    return made.eval().requires_grad_(False)


def latent(vae: AutoencoderKL, height: int, width: int) -> torch.Tensor:
    return torch.randn((1, vae.config.latent_channels, height, width), generator=torch.Generator().manual_seed(0))


def test_postcards_decoder_sees_the_whole_latent_through_its_norms_alone() -> None:
    vae = rebuild(Settings().model_repository, "postcard").vae.eval().requires_grad_(False)
    z = latent(vae, 18, 18)
    assert reach(vae, z) == 18
    with frozen(vae, z):
        assert reach(vae, z) == 10


@pytest.mark.parametrize("attention", [False, True])
def test_tiles_are_the_whole_only_where_the_decoder_is_convolutional(attention: bool) -> None:
    vae = small(attention=attention)
    z = latent(vae, 40, 28)
    assert all(most > 0 for _, _, most in errors(vae, z, 8, (0, 12)))
    with frozen(vae, z):
        assert reach(vae, z) == (28 if attention else 13)
        (_, _, without), (_, _, enough) = errors(vae, z, 8, (0, 12))
    assert without > 0
    assert (enough == 0) == (not attention)
