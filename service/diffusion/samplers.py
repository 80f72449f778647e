"""All samplers by name: ``SAMPLERS[name](denoise, x, sigmas, noise, **options) -> x``.

Keyword-only parameters are options of the request; a further positional one is a fact of the model or the run.
"""

from service.diffusion import few_step, multistep, ode, sde, unipc
from service.diffusion.types import Sampler

SAMPLERS: dict[str, Sampler] = {
    "euler": ode.euler,
    "euler_ancestral": sde.euler_ancestral,
    "heun": ode.heun,
    "ddim": sde.ddim,
    "dpmpp_2s_ancestral": sde.dpmpp_2s_ancestral,
    "dpmpp_sde": sde.dpmpp_sde,
    "dpmpp_2m": multistep.dpmpp_2m,
    "dpmpp_2m_sde": multistep.dpmpp_2m_sde,
    "dpmpp_3m_sde": multistep.dpmpp_3m_sde,
    "unipc": unipc.unipc,
    "deis": multistep.deis,
    "er_sde": sde.er_sde,
    "lcm": few_step.lcm,
    "tcd": few_step.tcd,
    "flash": few_step.flash,
}

# The step is x0 + s * eps, so x0 and eps may disagree (CFG++, "x0 only" epsilon scaling). The other samplers read one.
ALONG_EPS = frozenset({"euler", "euler_ancestral", "ddim", "tcd", "flash"})
EPS_ONLY = frozenset({"heun", "deis"})
