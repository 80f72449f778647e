"""The way back: torch modules from a model repository alone, for training and for the tests' oracle.

An exported ONNX file holds every parameter under its name in the checkpoint, in its layout and stored dtype, and in
its metadata the classes and configurations of the modules it was made from.
"""

import importlib
import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import onnx_ir as ir
import torch
from tokenizers import Tokenizer as TokenizerFile
from transformers import PreTrainedTokenizerFast

from export.families import PIPELINES
from service.engines.contract import ModelDescription, Tokenizer, load_descriptions
from service.errors import InvalidRequest, UnknownModel

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
    """The diffusers pipeline of a model, in fp32; what its generation never runs (the VAE's encoder) is absent."""
    description, folder = find(repository, name)
    components: dict[str, Any] = {}
    for network in (description.networks[role] for role in ("text_encoder", "vae_decoder", description.denoiser)):
        components |= _rebuild(repository / network.entry / "1" / network.file)
    for entry in description.tokenizers:
        components[Path(entry.file).stem] = _tokenizer(entry, folder)
    pipeline = next(name for name, (family, *_) in PIPELINES.items() if family == description.family)
    cls = getattr(diffusers, pipeline)
    known = inspect.signature(cls).parameters
    options = {"requires_safety_checker": False} if "requires_safety_checker" in known else {}
    absent = {name: None for name, parameter in known.items() if parameter.default is parameter.empty}
    return cls(**absent | components | options)


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
    module, name = type(component).__module__, type(component).__name__
    library = module if module.startswith("export.") else module.split(".")[0]
    return {"class": f"{library}.{name}", "config": public}


def _rebuild(file: Path) -> dict[str, Any]:
    if file.suffix != ".onnx":
        raise InvalidRequest(f"{file} is no ONNX, from which alone modules can be rebuilt", field="name")
    recipes = json.loads(ir.load(file).metadata_props[COMPONENTS])
    components = {name: _build(recipe) for name, recipe in recipes.items()}
    modules = {name: module for name, module in components.items() if isinstance(module, torch.nn.Module)}
    state = load_state_dict(file)
    for name, module in modules.items():
        prefix = f"{name}." if len(modules) > 1 else ""
        _load(module, {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)})
    return components


def _build(recipe: Mapping[str, Any]) -> Any:
    library, name = recipe["class"].rsplit(".", 1)
    cls = getattr(importlib.import_module(library), name)
    if hasattr(cls, "config_class"):  # transformers
        return cls(cls.config_class.from_dict(recipe["config"]))
    return cls.from_config(recipe["config"])


def _load(module: torch.nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Load what the exported network reads; the rest of the module, never run in generation, keeps its random start."""
    if isinstance(module, diffusers.AutoencoderKL):
        module.encoder = module.quant_conv = None
    unexpected = module.load_state_dict({name: tensor.float() for name, tensor in state.items()}, strict=False)[1]
    assert not unexpected, unexpected
    module.requires_grad_(False).eval()


def _tensor(stored: Any) -> torch.Tensor:
    flat = torch.frombuffer(bytearray(stored.tobytes()), dtype=DTYPES[stored.dtype])
    return flat.reshape(tuple(stored.shape))


def _tokenizer(entry: Tokenizer, folder: Path) -> Any:
    content = TokenizerFile.from_file(str(folder / entry.file))
    return PreTrainedTokenizerFast(
        tokenizer_object=content, pad_token=content.id_to_token(entry.pad_id), model_max_length=entry.max_length
    )
