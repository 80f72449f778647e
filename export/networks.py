"""What is exported of a model: networks with named tensors in and out, around torch modules of a checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from service.engines.contract import Tensor

Tensors = tuple[torch.Tensor, ...]
Precision = Literal["fp32", "fp16", "bf16"]

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "int64": torch.int64}
CLOCK = "timestep"
STORED: Mapping[Precision, torch.dtype] = {"fp32": torch.float16, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Port:
    """An input or output: its shape without the batch, where a named axis is dynamic; how test values are drawn."""

    name: str
    axes: tuple[int | str, ...]
    dtype: Literal["fp32", "fp16", "int64"] = "fp32"
    below: float | None = None  # values uniform in [0, below); unit normal if None
    whole: bool = False  # whole numbers

    @property
    def tensor(self) -> Tensor:
        """The port in the words of the contract."""
        return Tensor(name=self.name, dtype=self.dtype, shape=tuple(-1 if isinstance(a, str) else a for a in self.axes))

    @property
    def follows(self) -> bool:
        """Whether the network's precision is the port's; token ids and clock stay what they are."""
        return self.dtype != "int64" and self.name != CLOCK

    def draw(self, batch: int, sizes: Mapping[str, int], generator: torch.Generator) -> torch.Tensor:
        """Random values of this port for named axes of these sizes."""
        shape = [batch, *(sizes[axis] if isinstance(axis, str) else axis for axis in self.axes)]
        if self.below is None:
            return torch.randn(shape, generator=generator).to(DTYPES[self.dtype])
        values = torch.rand(shape, generator=generator) * self.below
        return (values.floor() if self.whole else values).to(DTYPES[self.dtype])


class Network(torch.nn.Module):
    """One network of a model; the exported graph keeps the parameter names of ``module``."""

    role: str
    precision: Precision = "fp32"  # of the arithmetic
    multiple = 1  # height and width of the latent are multiples of this,
    limit: int | None = None  # and at most this many of them

    def __init__(
        self, components: Mapping[str, torch.nn.Module], inputs: tuple[Port, ...], outputs: tuple[Port, ...]
    ) -> None:
        """``components`` are named as in the checkpoint; the parameters of several are prefixed with their names."""
        super().__init__()
        self.components = dict(components)
        several = len(components) > 1
        self.module: Any = torch.nn.ModuleDict(self.components) if several else next(iter(components.values()))
        self.inputs = inputs
        self.outputs = outputs

    def compute_in(self, precision: Precision) -> None:
        """Change the arithmetic from fp32; the clock, and layers that overflow, stay.

        The ports become fp16 with it. They stay fp32 around bf16, which NumPy does not have.
        """
        self.precision = precision
        self.module.to(DTYPES[precision])
        for component in self.components.values():
            for name in getattr(component, "_keep_in_fp32_modules", None) or ():
                for path, layer in component.named_modules():
                    if path.rpartition(".")[-1] == name:
                        layer.float()
        if precision == "fp16":
            self.inputs, self.outputs = (
                tuple(replace(port, dtype="fp16") if port.follows else port for port in ports)
                for ports in (self.inputs, self.outputs)
            )
        if precision == "bf16":
            self.register_forward_pre_hook(_narrow)
            self.register_forward_hook(_widen)

    def example(self, batch: int, height: int, width: int, seed: int = 0) -> Tensors:
        """Random inputs; ``height`` and ``width`` are counted in ``multiple``."""
        sizes = {"height": height * self.multiple, "width": width * self.multiple}
        generator = torch.Generator().manual_seed(seed)
        return tuple(port.draw(batch, sizes, generator) for port in self.inputs)


def _narrow(network: torch.nn.Module, inputs: Tensors) -> Tensors:
    assert isinstance(network, Network)
    return tuple(x.bfloat16() if port.follows else x for port, x in zip(network.inputs, inputs, strict=True))


def _widen(_: torch.nn.Module, __: Tensors, output: Any) -> Any:
    return tuple(x.float() for x in output) if isinstance(output, tuple) else output.float()


class Denoiser(Network):
    """The network that the sampler calls: latent, one timestep per row, conditioning -> prediction."""

    def __init__(self, role: str, module: Any, conditioning: tuple[Port, ...]) -> None:
        latent = (module.config.in_channels, "height", "width")
        clock = Port(CLOCK, (), below=1000.0)
        super().__init__({role: module}, (Port("sample", latent), clock, *conditioning), (Port("out_sample", latent),))
        self.role = role
        self.sample_size = int(module.config.sample_size)


class VaeDecoder(Network):
    """The second half of the autoencoder: unscaled latent -> pixels in about [-1, 1]."""

    role = "vae_decoder"

    def __init__(self, module: Any) -> None:
        latent = Port("latent_sample", (module.config.latent_channels, "height", "width"))
        pixels = Port("sample", (module.config.out_channels, "image_height", "image_width"))
        super().__init__({"vae": module}, (latent,), (pixels,))
        self.factor = 2 ** (len(module.config.block_out_channels) - 1)

    def compute_in(self, precision: Precision) -> None:
        """Decoders that overflow in halves say so."""
        if not self.module.config.force_upcast:
            super().compute_in(precision)

    def forward(self, latent_sample: torch.Tensor) -> torch.Tensor:
        return self.module.decode(latent_sample, return_dict=False)[0]
