"""The service's samplers, schedules and guidance on batches of torch tensors: pictures without an exported model.

Only what acts on every number alone is right for a batch: samplers, plain CFG, epsilon scaling.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from service.diffusion.compose import compose
from service.diffusion.noise import SeededNoise
from service.diffusion.parameterization import Parameterization
from service.diffusion.types import Array
from service.engines.contract import Latent, ModelDescription, NoiseSchedule
from service.recipe import Overrides, Recipe, load_presets, resolve
from training import decoder, text, unet

Solve = Callable[[Tensor, Array], Tensor]  # x at sigmas[0] -> x0 at the end of the sigmas
Draw = Callable[[Sequence[str], Sequence[int]], NDArray[np.uint8]]  # prompts, seeds -> pictures (n, size, size, 3)


def description(config: Any) -> ModelDescription:
    """What the service must know of the model to resolve a recipe."""
    a, side = config.autoencoder, config.world.size
    alphas = tuple(float(v) for v in unet.scheduler().alphas_cumprod)
    return ModelDescription(
        name=config.paths.model.name, family="stable-diffusion",
        noise_schedule=NoiseSchedule(kind="vp", prediction="v", timesteps=len(alphas), alphas_cumprod=alphas),
        latent=Latent(channels=a.channels, factor=a.patch, scale=1.0), sizes=((side, side),),
        default_preset=config.evaluation.preset, tokenizers=(), networks={}, preview=(),
    )  # fmt: skip


def recipe(config: Any, **fields: Any) -> Recipe:
    """A recipe of the service for this model, every number explicit; without fields the default preset."""
    model = description(config)
    asked = Overrides(**{"prompt": "", "seed": 0} | fields)
    resolved = resolve(asked, load_presets(), {model.name: model}, "torch", "fp32")
    plain = resolved.guidance_method == "cfg" and not resolved.guidance_options["rescale"]
    if not plain or resolved.time_shift or resolved.cads:
        raise ValueError(f"{resolved.preset}: not a recipe for batches, it looks at a whole picture")
    return resolved


def branches(net: UNet2DConditionModel, contexts: Mapping[str, Tensor], process: Parameterization) -> Any:
    """``Branches`` of a whole batch: x (n, c, h, w) at one sigma, contexts (n, length, width) by branch name."""

    def evaluate(x: Tensor, sigma: float, names: Sequence[str]) -> list[Any]:
        rows = (process.input_scale(sigma) * x).repeat(len(names), 1, 1, 1)
        clock = torch.full((len(rows),), process.sigma_to_timestep(sigma), device=x.device)
        output = net(rows, clock, torch.cat([contexts[name] for name in names])).sample.float()
        return [process.denoised(x, part, sigma) for part in output.chunk(len(names))]  # type: ignore[arg-type]

    return evaluate


class Noise:
    """The service's noise of several seeds, (n, c, h, w): first what pictures start from, then that of every step."""

    def __init__(self, config: Any, seeds: Sequence[int]) -> None:
        side, self.device = config.world.size // config.autoencoder.patch, config.device
        self.pictures = [SeededNoise(seed, (config.autoencoder.channels, side, side)) for seed in seeds]

    def draw(self) -> Tensor:
        drawn = np.stack([picture.draw() for picture in self.pictures])
        return torch.from_numpy(drawn.astype(np.float32)).to(self.device)

    def __call__(self, _sigma: float, _sigma_next: float) -> Tensor:
        return self.draw()


@torch.no_grad()
def develop(
    net: UNet2DConditionModel, recipe: Recipe, model: ModelDescription, noise: Noise, **contexts: Tensor
) -> Any:
    """Noise -> latents (n, c, h, w), by a recipe; contexts are ``cond`` and ``uncond``."""
    parts = recipe.parts(model)
    denoise = compose(branches(net, contexts, parts.parameterization), parts.guidance, parts.corrections)
    start: Any = noise.draw() / parts.parameterization.input_scale(recipe.sigmas[0])
    return parts.sampler(denoise, start, np.array(recipe.sigmas), cast(Any, noise))


def guided(net: UNet2DConditionModel, recipe: Recipe, model: ModelDescription, cond: Tensor, uncond: Tensor) -> Solve:
    """A network as a recipe runs it: its sampler and guidance, on given sigmas; ValueError if it is stochastic."""
    parts = recipe.parts(model)
    contexts = {"cond": cond, "uncond": uncond.expand_as(cond)}
    denoise = parts.guidance(branches(net, contexts, parts.parameterization))

    def noise(_sigma: float, _sigma_next: float) -> Any:
        raise ValueError(f"{recipe.sampler} is stochastic, and a mean of its ends is blurred: choose another sampler")

    def solve(x: Tensor, sigmas: Array) -> Tensor:
        end: Any = parts.sampler(denoise, x, sigmas, noise)
        return torch.as_tensor(end)

    return solve


class Pictures:
    """Prompt and seed -> picture with the text encoder and decoder of a run, on one device."""

    def __init__(self, config: Any, batch: int = 50) -> None:
        self.config, self.device, self.batch, self.model = config, config.device, batch, description(config)
        self.tokenizer, encoder = text.load(config.paths.runs)
        self.encoder, self.vae = encoder.to(self.device), decoder.load_ema(config).to(self.device)

    def drawer(self, net: UNet2DConditionModel, **fields: Any) -> Draw:
        """A function that draws with this network by a recipe (fields as in a request)."""
        chosen = recipe(self.config, **fields)

        def draw(prompts: Sequence[str], seeds: Sequence[int]) -> NDArray[np.uint8]:
            starts = tqdm(range(0, len(prompts), self.batch), desc=chosen.preset, mininterval=10, leave=False)
            parts = [slice(i, i + self.batch) for i in starts]
            return np.concatenate([self._draw(net, chosen, prompts[part], seeds[part]) for part in parts])

        return draw

    def _draw(
        self, net: UNet2DConditionModel, chosen: Recipe, prompts: Sequence[str], seeds: Sequence[int]
    ) -> NDArray[np.uint8]:
        texts = list(prompts), [chosen.negative_prompt] * len(prompts)
        cond, uncond = (text.encode(self.tokenizer, self.encoder, part) for part in texts)
        noise = Noise(self.config, seeds)
        return to_pixels(self.vae, develop(net.eval(), chosen, self.model, noise, cond=cond, uncond=uncond))


@torch.no_grad()
def to_pixels(vae: Any, latents: Tensor) -> NDArray[np.uint8]:
    """Unit-scale latents -> pictures (n, size, size, 3), rounded as the service does."""
    pixels = vae.decode(latents / vae.config.scaling_factor).sample.clamp(-1, 1)
    return ((pixels / 2 + 0.5) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
