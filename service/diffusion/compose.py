"""The parts of a run, and the one place where a denoiser is put together."""

from collections.abc import Iterable
from typing import NamedTuple

from service.diffusion.conditioning import Transform
from service.diffusion.guidance import Guidance
from service.diffusion.networks import Stage
from service.diffusion.parameterization import Parameterization
from service.diffusion.types import Branches, Denoiser, Sampler, Wrapper


class Parts(NamedTuple):
    """What a recipe runs on a model: options, facts of the model and of the run are bound."""

    parameterization: Parameterization
    network: str  # role of the one that the sampler calls
    start: Stage  # unit noise -> x
    sampler: Sampler  # (denoise, x, sigmas, noise) -> x
    finish: Stage  # sampled latent -> latent
    guidance: Guidance
    corrections: list[Wrapper]  # innermost first
    transforms: list[Transform]  # of the conditioning that ``network`` sees, first one first


def compose(branches: Branches, guidance: Guidance, corrections: Iterable[Wrapper], *watch: Wrapper) -> Denoiser:
    """branches -> guidance -> corrections, first one innermost -> watch, which sees what the sampler sees."""
    denoise = guidance(branches)
    for wrap in (*corrections, *watch):
        denoise = wrap(denoise)
    return denoise
