"""The way back: torch modules from a model repository alone, for training and for the tests' oracle.

An exported ONNX file holds every parameter under its name in the checkpoint, in its layout and stored dtype, and in
its metadata the classes and configurations of the modules it was made from.
"""

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import onnx_ir as ir
import torch
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from service.engines.contract import ModelDescription, load_descriptions
from service.errors import UnknownModel

COMPONENTS = "components"  # metadata key: component -> {"class": ..., "config": ...}
CONSTANT = "constant_"  # initializers of this prefix are no parameters
DTYPES = {
    ir.DataType.FLOAT: torch.float32,
    ir.DataType.FLOAT16: torch.float16,
    ir.DataType.BFLOAT16: torch.bfloat16,
    ir.DataType.INT64: torch.int64,
}


def remember(components: Mapping[str, Any]) -> dict[str, str]:
    """ONNX metadata from which ``rebuild`` makes these components again; no path of this machine is in it."""
    return {COMPONENTS: json.dumps({name: _recipe(module) for name, module in components.items()}, sort_keys=True)}


def load_state_dict(file: Path) -> dict[str, torch.Tensor]:
    """The parameters of an exported network by their names in the checkpoint, as stored."""
    initializers = ir.load(file).graph.initializers
    return {name: _tensor(value.const_value) for name, value in initializers.items() if not name.startswith(CONSTANT)}


def rebuild(repository: Path, name: str) -> Any:
    """The diffusers pipeline of a model, in fp32; parts that generation never runs (the VAE's encoder) are absent."""
    description, folder = find(repository, name)
    components: dict[str, Any] = {}
    for network in description.networks.values():
        components |= _rebuild(repository / network.entry / "1" / network.file)
    return diffusers.StableDiffusionPipeline(
        **components,
        tokenizer=_tokenizer(description, folder),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def find(repository: Path, name: str) -> tuple[ModelDescription, Path]:
    """The description of a model and its folder."""
    descriptions = load_descriptions(repository)
    if name not in descriptions:
        known = ", ".join(descriptions) or "none"
        raise UnknownModel(f"{repository} holds no model {name}; its models: {known}", field="name")
    return descriptions[name]


def _recipe(component: Any) -> dict[str, Any]:
    config = component.config if isinstance(component.config, Mapping) else component.config.to_diff_dict()
    public = {key: value for key, value in config.items() if not key.startswith("_")}
    return {"class": f"{type(component).__module__.split('.')[0]}.{type(component).__name__}", "config": public}


def _rebuild(file: Path) -> dict[str, Any]:
    recipes = json.loads(ir.load(file).metadata_props[COMPONENTS])
    state = load_state_dict(file)
    components = {}
    for name, recipe in recipes.items():
        library, cls = recipe["class"].split(".")
        component = _build(getattr(importlib.import_module(library), cls), recipe["config"])
        if isinstance(component, torch.nn.Module):
            _load(component, state)
        components[name] = component
    return components


def _build(cls: Any, config: Mapping[str, Any]) -> Any:
    if hasattr(cls, "config_class"):  # transformers
        return cls(cls.config_class.from_dict(dict(config)))
    return cls.from_config(dict(config))


def _load(module: torch.nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    if isinstance(module, diffusers.AutoencoderKL):
        module.encoder = module.quant_conv = None
    module.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    module.requires_grad_(False).eval()


def _tensor(stored: Any) -> torch.Tensor:
    flat = torch.frombuffer(bytearray(stored.tobytes()), dtype=DTYPES[stored.dtype])
    return flat.reshape(tuple(stored.shape))


def _tokenizer(description: ModelDescription, folder: Path) -> Any:
    entry = description.tokenizers[0]
    content = Tokenizer.from_file(str(folder / entry.file))
    return PreTrainedTokenizerFast(
        tokenizer_object=content, pad_token=content.id_to_token(entry.pad_id), model_max_length=entry.max_length
    )
