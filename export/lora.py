"""Low-rank adapters (Hu et al. 2021) in diffusers' or PEFT's file format, merged into the weights: W + s B A."""

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from service.errors import InvalidRequest

FACTOR = re.compile(r"(?P<path>.+)\.(?:lora_(?P<new>[AB])(?:\.\w+)?|lora\.(?P<old>down|up))\.weight")
NAMES = {"A": "down", "B": "up"}
ADAPTER = "lora_adapter_metadata"  # diffusers' key in the header of a safetensors file


class Lora:
    """The adapters of one file, by the component and the path of the layer that each belongs to."""

    def __init__(self, file: Path, scale: float = 1.0) -> None:
        self.file = file
        self.scale = scale
        self.layers: dict[str, dict[str, torch.Tensor]] = defaultdict(dict)
        try:
            with safe_open(file, framework="pt") as content:
                header = content.metadata() or {}
                for key in content.keys():  # noqa: SIM118 (no mapping)
                    self._add(key, content.get_tensor(key).float())
            self.config: dict[str, Any] = json.loads(header.get(ADAPTER, "{}"))
        except (OSError, SafetensorError, ValueError) as error:
            raise InvalidRequest(f"{file}: {error}", field="lora") from error

    def merge(self, component: str, module: torch.nn.Module) -> None:
        """Add to the layers of a component what this file has for them."""
        modules = dict(module.named_modules())
        for path in [path for path in self.layers if path.startswith(f"{component}.")]:
            factors = self.layers.pop(path)
            name = path.removeprefix(f"{component}.")
            layer = modules.get(name) or modules.get(name.removeprefix("text_model."))
            weight = getattr(layer, "weight", None)
            if not isinstance(weight, torch.Tensor) or not {"up", "down"} <= set(factors):
                raise InvalidRequest(f"{self.file}: {path} is no layer with both factors of an adapter", field="lora")
            try:
                stabilised = bool(self.config.get(f"{component}.use_rslora"))
                self._merge(weight, factors, self._alpha(component, name), stabilised)
            except RuntimeError as error:
                raise InvalidRequest(f"{self.file}: {path} does not fit: {error}", field="lora") from error

    def require_merged(self) -> None:
        """Nothing of the file may be left over."""
        if self.layers:
            raise InvalidRequest(f"{self.file}: the model has no {next(iter(self.layers))}", field="lora")

    def _add(self, key: str, tensor: torch.Tensor) -> None:
        if key.endswith(".alpha"):
            self.layers[key.removesuffix(".alpha")]["alpha"] = tensor
        elif match := FACTOR.fullmatch(key):
            self.layers[match["path"]][NAMES.get(match["new"], match["old"])] = tensor
        else:
            raise InvalidRequest(f"{self.file}: {key} is no LoRA factor of diffusers or PEFT", field="lora")

    def _alpha(self, component: str, name: str) -> float | None:
        pattern = self.config.get(f"{component}.alpha_pattern") or {}
        default = self.config.get(f"{component}.lora_alpha")
        return next((alpha for key, alpha in pattern.items() if f".{name}".endswith(f".{key}")), default)

    def _merge(
        self, weight: torch.Tensor, factors: dict[str, torch.Tensor], alpha: float | None, stabilised: bool
    ) -> None:
        """Rank-stabilised adapters divide alpha by the root of the rank (Kalajdzievski 2023)."""
        up, down = factors["up"], factors["down"]
        rank = len(down)
        alpha = float(factors["alpha"]) if "alpha" in factors else rank if alpha is None else alpha
        strength = self.scale * alpha / (rank**0.5 if stabilised else rank)
        weight += strength * (up.flatten(1) @ down.flatten(1)).reshape(weight.shape)
