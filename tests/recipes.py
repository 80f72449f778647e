"""Model descriptions for tests that need no networks."""

import math

import numpy as np

from service.engines.contract import Latent, ModelDescription, NoiseSchedule


def cosine_alphas(timesteps: int = 1000) -> tuple[float, ...]:
    """squaredcos_cap_v2 (Nichol & Dhariwal 2021, eq. 17)."""

    def abar(t: float) -> float:
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = [min(1 - abar((i + 1) / timesteps) / abar(i / timesteps), 0.999) for i in range(timesteps)]
    return tuple(np.cumprod(1 - np.array(betas)).tolist())


def description(name: str, noise_schedule: NoiseSchedule, sizes: tuple[tuple[int, int], ...]) -> ModelDescription:
    """A model without networks."""
    return ModelDescription(
        name=name,
        family="stable-diffusion",
        noise_schedule=noise_schedule,
        latent=Latent(channels=16, factor=16, scale=1.0),
        sizes=sizes,
        default_preset="balanced",
        tokenizers=(),
        networks={},
        preview=(),
    )


POSTCARD = description(
    "postcard", NoiseSchedule(kind="vp", prediction="v", alphas_cumprod=cosine_alphas()), ((256, 256), (320, 192))
)
FLOW = description("flow", NoiseSchedule(kind="flow", prediction="flow", shift=3.0), ((512, 512),))
MODELS = {"postcard": POSTCARD}
