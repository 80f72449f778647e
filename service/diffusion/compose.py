"""The one place where a denoiser is put together."""

from collections.abc import Iterable

from service.diffusion.guidance import Guidance
from service.diffusion.types import Branches, Denoiser, Wrapper


def compose(branches: Branches, guidance: Guidance, corrections: Iterable[Wrapper], *watch: Wrapper) -> Denoiser:
    """branches -> guidance -> corrections, first one innermost -> watch, which sees what the sampler sees."""
    denoise = guidance(branches)
    for wrap in (*corrections, *watch):
        denoise = wrap(denoise)
    return denoise
