"""All samplers by name: ``SAMPLERS[name](denoise, x, sigmas, noise, **options) -> x``."""

from service.diffusion import ode, sde
from service.diffusion.types import Sampler

SAMPLERS: dict[str, Sampler] = {
    "euler": ode.euler,
    "euler_ancestral": sde.euler_ancestral,
    "heun": ode.heun,
    "dpmpp_2m": ode.dpmpp_2m,
    "dpmpp_2m_sde": sde.dpmpp_2m_sde,
}
