"""The one table of labels that people know (A1111 and Forge, ComfyUI, diffusers) and what they are here.

A label may name a sampler and a schedule at once ("DPM++ 2M Karras"). Case, spaces and punctuation do not matter.
"""

import re
from typing import Any

from service.diffusion.samplers import SAMPLERS
from service.diffusion.schedules import SCHEDULES


def _key(label: str) -> str:
    return re.sub(r"[^a-z0-9+]", "", label.lower().removesuffix("scheduler").removesuffix("_gpu"))


# label -> fields of a recipe
SAMPLER_LABELS: dict[str, dict[str, Any]] = {
    # A1111 / Forge
    "Euler a": {"sampler": "euler_ancestral"},
    "DPM++ 2S a": {"sampler": "dpmpp_2s_ancestral"},
    "DPM++ SDE": {"sampler": "dpmpp_sde"},
    "DPM++ 2M": {"sampler": "dpmpp_2m"},
    "DPM++ 2M SDE": {"sampler": "dpmpp_2m_sde"},
    "DPM++ 2M SDE Heun": {"sampler": "dpmpp_2m_sde", "sampler_options": {"solver": "heun"}},
    "DPM++ 3M SDE": {"sampler": "dpmpp_3m_sde"},
    "UniPC": {"sampler": "unipc", "sampler_options": {"variant": "bh1", "order": 3}},
    "DDIM CFG++": {"sampler": "ddim", "guidance_method": "cfg_pp"},
    "Euler CFG++": {"sampler": "euler", "guidance_method": "cfg_pp"},
    # ComfyUI
    "uni_pc": {"sampler": "unipc", "sampler_options": {"variant": "bh1", "order": 3}},
    "uni_pc_bh2": {"sampler": "unipc", "sampler_options": {"variant": "bh2", "order": 3}},
    "euler_cfg_pp": {"sampler": "euler", "guidance_method": "cfg_pp"},
    "euler_ancestral_cfg_pp": {"sampler": "euler_ancestral", "guidance_method": "cfg_pp"},
    "dpmpp_2m_sde_heun": {"sampler": "dpmpp_2m_sde", "sampler_options": {"solver": "heun"}},
    # diffusers
    "EulerDiscreteScheduler": {"sampler": "euler"},
    "EulerAncestralDiscreteScheduler": {"sampler": "euler_ancestral"},
    "HeunDiscreteScheduler": {"sampler": "heun"},
    "DDIMScheduler": {"sampler": "ddim"},
    "DPMSolverMultistepScheduler": {"sampler": "dpmpp_2m"},
    "DPMSolverSDEScheduler": {"sampler": "dpmpp_sde"},
    "UniPCMultistepScheduler": {"sampler": "unipc"},
    "DEISMultistepScheduler": {"sampler": "deis", "sampler_options": {"order": 2}},
    "LCMScheduler": {"sampler": "lcm"},
    "TCDScheduler": {"sampler": "tcd"},
    "FlowMatchEulerDiscreteScheduler": {"sampler": "euler"},
    "FlowMatchHeunDiscreteScheduler": {"sampler": "heun"},
}
SCHEDULE_LABELS: dict[str, str] = {
    "Normal": "linspace",  # ComfyUI
    "Uniform": "linspace",  # A1111
    "SGM Uniform": "trailing",
    "DDIM Uniform": "leading",
    "Align Your Steps": "ays",  # the authors' interpolation; A1111's own is ays_a1111
    "KL Optimal": "kl_optimal",
    "use_karras_sigmas": "karras",  # diffusers
    "use_exponential_sigmas": "exponential",
    "use_beta_sigmas": "beta_sigma",
}
_SAMPLERS: dict[str, dict[str, Any]] = {_key(name): {"sampler": name} for name in SAMPLERS}
_SAMPLERS |= {_key(label): fields for label, fields in SAMPLER_LABELS.items()}
_SCHEDULES = {_key(name): name for name in SCHEDULES} | {_key(k): v for k, v in SCHEDULE_LABELS.items()}


def schedule_fields(label: str) -> dict[str, Any]:
    """The fields of a schedule's label; an unknown one stays as it is."""
    return {"schedule": label if label in SCHEDULES else _SCHEDULES.get(_key(label), label)}


def sampler_fields(label: str) -> dict[str, Any]:
    """The fields of a sampler's label, with the schedule that it may end in; an unknown one stays as it is."""
    if label in SAMPLERS:
        return {"sampler": label}
    if _key(label) in _SAMPLERS:
        return _SAMPLERS[_key(label)]
    words = label.split()
    for i in range(1, len(words)):
        sampler, schedule = _key(" ".join(words[:i])), _key(" ".join(words[i:]))
        if sampler in _SAMPLERS and schedule in _SCHEDULES:
            return {**_SAMPLERS[sampler], "schedule": _SCHEDULES[schedule]}
    return {"sampler": label}
