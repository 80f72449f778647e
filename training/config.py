"""The one configuration: training/postcard.toml, read once, as nested attribute access."""

import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

DEFAULT = Path(__file__).with_name("postcard.toml")


def load(path: Path = DEFAULT, device: str = "cpu") -> Any:
    """Read the TOML file; tables and keys become attributes. On CUDA the tables under ``[cuda]`` replace numbers."""
    tables = tomllib.loads(path.read_text())
    for name, numbers in tables.pop("cuda", {}).items():
        if unknown := numbers.keys() - tables.get(name, {}).keys():
            raise ValueError(f"{path}: [cuda.{name}] replaces {', '.join(sorted(unknown))}, which [{name}] has not")
        if device == "cuda":
            tables[name] |= numbers
    config = SimpleNamespace(**{name: SimpleNamespace(**values) for name, values in tables.items()}, device=device)
    config.paths = SimpleNamespace(**{name: Path(value) for name, value in vars(config.paths).items()})
    return config


def choose(device: str) -> str:
    """The device that ``auto`` means here; ValueError if CUDA is asked for and absent."""
    import torch

    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise ValueError("no CUDA device is available to torch")
    return ("cuda" if available else "cpu") if device == "auto" else device
