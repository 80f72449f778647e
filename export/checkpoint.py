"""Reads a model in diffusers format: model_index.json and one folder per component."""

import importlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from export.lora import Lora
from service.errors import InvalidRequest

INDEX = "model_index.json"
VARIANT = re.compile(r"[\w-]+\.(\w+?)(?:-\d+-of-\d+)?\.safetensors")
FURTHER = re.compile(r"[a-z0-9_]+")
LIBRARIES = ("diffusers", "transformers", "export.subpixel")  # whose classes are imported


class Checkpoint:
    """A diffusers directory; components are loaded one by one, from this disk only."""

    def __init__(self, directory: Path, weights: torch.dtype = torch.float16, loras: Sequence[Lora] = ()) -> None:
        """Adapters are merged into the parameters, which are then rounded to ``weights``."""
        self.directory = directory
        self.weights = weights
        self.loras = loras
        if not (directory / INDEX).is_file():
            raise InvalidRequest(f"{directory} is not a diffusers model: it has no {INDEX}", field=INDEX)
        self.index = _read_json(directory / INDEX)
        self.pipeline = str(self.index.get("_class_name"))

    def has(self, component: str) -> bool:
        """Whether the model has this component; optional ones are null in the index."""
        return bool(self.index.get(component, [None])[0])

    def beside(self, component: str) -> list[str]:
        """Further networks of a component's class, which diffusers does not know: folders such as unet_student."""
        found = sorted(folder.name for folder in self.directory.glob(f"{component}_*/"))
        for name in found:
            if not FURTHER.fullmatch(name):
                raise InvalidRequest(f"{name}: a network is named in a-z, 0-9 and underscores", field=name)
            self.index.setdefault(name, self.index.get(component))
        return found

    def network(self, component: str, *classes: str) -> Any:
        """A module that computes in fp32 with the rounded parameters."""
        options = {"use_safetensors": True, "output_loading_info": True, "variant": self._variant(component)}
        module, report = self._load(component, *classes, **options)
        if report["missing_keys"]:
            missing = sorted(report["missing_keys"])
            raise InvalidRequest(f"{component} lacks {len(missing)} parameters, first {missing[0]}", field=component)
        module.float().requires_grad_(False)
        for lora in self.loras:
            lora.merge(component, module)
        for tensor in module.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(tensor.to(self.weights))
        return module.eval()

    def tokenizer(self, component: str, *classes: str) -> Any:
        """A tokenizer backed by the tokenizers library."""
        return self._load(component, *classes)

    def scheduler(self) -> Any:
        """The diffusers scheduler, which knows the noise that the network was trained with."""
        return self._load("scheduler")

    def _load(self, component: str, *classes: str, **options: Any) -> Any:
        library, name = self._entry(component)
        if classes and name not in classes:
            raise InvalidRequest(f"{component}: {name} is not supported, only {', '.join(classes)}", field=component)
        folder = self.directory / component
        if not folder.is_dir():
            raise InvalidRequest(f"{component}: the folder {folder} is missing", field=component)
        try:
            cls = getattr(importlib.import_module(library), name)
            return cls.from_pretrained(folder, local_files_only=True, **options)
        except (OSError, ValueError, KeyError, AttributeError, RuntimeError) as error:
            raise InvalidRequest(f"{component}: {error}", field=component) from error

    def _variant(self, component: str) -> str | None:
        """The "fp16" of model.fp16.safetensors, also where that is in parts; None if files without one are there."""
        names = [file.name for file in (self.directory / component).glob("*.safetensors")]
        matches = [match[1] for name in names if (match := VARIANT.fullmatch(name))]
        return min(matches) if matches and len(matches) == len(names) else None

    def _entry(self, component: str) -> tuple[str, str]:
        entry = self.index.get(component)
        if not (isinstance(entry, list) and len(entry) == 2 and entry[0] in LIBRARIES):
            raise InvalidRequest(f"{INDEX} names no {component} of {' or '.join(LIBRARIES)}", field=component)
        return entry[0], str(entry[1])


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise InvalidRequest(f"{path} is not JSON: {error}", field=path.name) from error
    if not isinstance(content, dict):
        raise InvalidRequest(f"{path} is not a JSON object", field=path.name)
    return content
