"""What is exported of a model: each network as named tensors in, named tensors out, around its torch module."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from service.engines.contract import Tensor

Tensors = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Port:
    """An input or output: its shape without the batch, where a named axis is dynamic; how test values are drawn."""

    name: str
    axes: tuple[int | str, ...]
    dtype: Literal["fp32", "fp16", "bf16", "int64"] = "fp32"
    below: float | None = None  # values uniform in [0, below); unit normal if None

    @property
    def tensor(self) -> Tensor:
        """The port in the words of the contract."""
        return Tensor(name=self.name, dtype=self.dtype, shape=tuple(-1 if isinstance(a, str) else a for a in self.axes))

    def draw(self, batch: int, sizes: Mapping[str, int], generator: torch.Generator) -> torch.Tensor:
        """Random values of this port for named axes of these sizes."""
        shape = [batch, *(sizes[axis] if isinstance(axis, str) else axis for axis in self.axes)]
        if self.below is None:
            return torch.randn(shape, generator=generator)
        values = torch.rand(shape, generator=generator) * self.below
        return values.long() if self.dtype == "int64" else values


class Network(torch.nn.Module):
    """One network of a model; subclasses call ``module``, whose parameter names the exported graph keeps."""

    role: str  # in the repository
    component: str  # in the checkpoint
    multiple = 1  # height and width of the latent are multiples of this

    def __init__(self, module: torch.nn.Module, inputs: tuple[Port, ...], outputs: tuple[Port, ...]) -> None:
        super().__init__()
        self.module = module
        self.inputs = inputs
        self.outputs = outputs

    def example(self, batch: int, height: int, width: int, seed: int = 0) -> Tensors:
        """Random inputs; ``height`` and ``width`` are counted in ``multiple``."""
        sizes = {"height": height * self.multiple, "width": width * self.multiple}
        generator = torch.Generator().manual_seed(seed)
        return tuple(port.draw(batch, sizes, generator) for port in self.inputs)


class TextEncoder(Network):
    """CLIP: token ids -> the last hidden state, named after the denoiser's input that it feeds."""

    role = "text_encoder"
    component = "text_encoder"

    def __init__(self, module: torch.nn.Module) -> None:
        config: Any = module.config
        ids = Port("input_ids", (config.max_position_embeddings,), "int64", below=config.vocab_size)
        states = Port("encoder_hidden_states", (config.max_position_embeddings, config.hidden_size))
        super().__init__(module, (ids,), (states,))

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.module(input_ids)[0]


class Unet(Network):
    """The denoiser's network: one timestep per row."""

    role = "unet"
    component = "unet"

    def __init__(self, module: torch.nn.Module, conditioning: tuple[Port, ...]) -> None:
        config: Any = module.config
        latent = (config.in_channels, "height", "width")
        timestep = Port("timestep", (), below=1000.0)
        super().__init__(module, (Port("sample", latent), timestep, *conditioning), (Port("out_sample", latent),))
        self.sample_size = int(config.sample_size)
        self.multiple = 2 ** (len(config.block_out_channels) - 1)

    def forward(
        self, sample: torch.Tensor, timestep: torch.Tensor, encoder_hidden_states: torch.Tensor
    ) -> torch.Tensor:
        return self.module(sample, timestep, encoder_hidden_states, return_dict=False)[0]


class VaeDecoder(Network):
    """The second half of the autoencoder: unscaled latent -> pixels in about [-1, 1]."""

    role = "vae_decoder"
    component = "vae"

    def __init__(self, module: torch.nn.Module) -> None:
        config: Any = module.config
        latent = Port("latent_sample", (config.latent_channels, "height", "width"))
        pixels = Port("sample", (config.out_channels, "image_height", "image_width"))
        super().__init__(module, (latent,), (pixels,))
        self.factor = 2 ** (len(config.block_out_channels) - 1)

    def forward(self, latent_sample: torch.Tensor) -> torch.Tensor:
        decoder: Any = self.module
        return decoder.decode(latent_sample, return_dict=False)[0]
