"""Model descriptions for tests that need no networks."""

import math

import numpy as np

from service.engines.contract import Latent, ModelDescription, Network, NoiseSchedule


def cosine_alphas(timesteps: int = 1000) -> tuple[float, ...]:
    """squaredcos_cap_v2 (Nichol & Dhariwal 2021, eq. 17)."""

    def abar(t: float) -> float:
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = [min(1 - abar((i + 1) / timesteps) / abar(i / timesteps), 0.999) for i in range(timesteps)]
    return tuple(np.cumprod(1 - np.array(betas)).tolist())


def scaled_linear_alphas(start: float = 0.00085, end: float = 0.012, timesteps: int = 1000) -> tuple[float, ...]:
    """The betas of Stable Diffusion: linear in the square root."""
    return tuple(np.cumprod(1 - np.linspace(start**0.5, end**0.5, timesteps) ** 2).tolist())


def description(
    name: str, family: str, noise_schedule: NoiseSchedule, sizes: tuple[tuple[int, int], ...]
) -> ModelDescription:
    """A model without networks."""
    return ModelDescription(
        name=name,
        family=family,  # type: ignore[arg-type]
        noise_schedule=noise_schedule,
        latent=Latent(channels=16, factor=16, scale=1.0),
        sizes=sizes,
        default_preset="balanced",
        tokenizers=(),
        networks={},
        preview=(),
    )


V = NoiseSchedule(kind="vp", prediction="v", alphas_cumprod=cosine_alphas())
EPS = NoiseSchedule(kind="vp", prediction="eps", alphas_cumprod=scaled_linear_alphas())
POSTCARD = description("postcard", "stable-diffusion", V, ((256, 256), (320, 192)))
FLOW = description(
    "sd3-medium", "stable-diffusion-3", NoiseSchedule(kind="flow", prediction="flow", shift=3.0), ((512, 512),)
)
SD15 = description("sd15", "stable-diffusion", EPS, ((512, 512),))
MODELS = {"postcard": POSTCARD}


def with_networks(model: ModelDescription, *roles: str) -> ModelDescription:
    """The same model with networks of these roles."""
    networks = {role: Network(entry=role, file="", sha256="", inputs=(), outputs=()) for role in roles}
    return model.model_copy(update={"networks": networks})


STUDIED = with_networks(POSTCARD, "unet", "unet_student", "unet_initial", "unet_residual").model_copy(
    update={"name": "studied"}
)
DISTILLED = with_networks(POSTCARD, "unet", "unet_student").model_copy(update={"name": "postcard-with-student"})
FAMILY = {
    model.name: model
    for model in (
        POSTCARD,
        STUDIED,
        DISTILLED,
        FLOW,
        SD15,
        description("pixart-sigma-xl", "pixart-sigma", EPS, ((1024, 1024),)),
        *(
            description(name, "stable-diffusion-xl", EPS, ((1024, 1024),))
            for name in (
                "sdxl-base",
                "sdxl-lightning-4step",
                "sdxl-lightning-8step",
                "hyper-sdxl-1step",
                "hyper-sdxl-4step",
                "sdxl-lcm",
                "sdxl-tcd",
                "sdxl-dmd2-4step",
                "sdxl-dmd2-1step",
            )
        ),
    )
}
