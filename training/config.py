"""The one configuration: training/postcard.toml, read once, as nested attribute access."""

import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

DEFAULT = Path(__file__).with_name("postcard.toml")


def load(path: Path = DEFAULT) -> Any:
    """Read the TOML file; sections and keys become attributes."""
    sections = tomllib.loads(path.read_text())
    config = SimpleNamespace(**{name: SimpleNamespace(**values) for name, values in sections.items()})
    config.paths = SimpleNamespace(**{name: Path(value) for name, value in vars(config.paths).items()})
    return config
