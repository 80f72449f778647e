"""One tiny model, exported once per test session."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from service.engines.contract import ModelDescription
from tests import signals

os.environ.setdefault("OMP_NUM_THREADS", "1")  # torch, the oracle, beside the engine's own threads


@dataclass(frozen=True)
class Exported:
    """A checkpoint, the repository it became, and the description in it. Read only."""

    checkpoint: Path
    repository: Path
    description: ModelDescription

    def onnx(self, role: str) -> Path:
        entry = self.description.networks[role]
        return self.repository / entry.entry / "1" / entry.file


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    from tests.models import export_tiny, tiny_sd  # brings torch, which most tests do not need

    folder = tmp_path_factory.mktemp("exported")
    checkpoint, repository = tiny_sd(folder / "checkpoint"), folder / "repository"
    earlier = repository / "tiny_vae_decoder" / "1" / "earlier.onnx"
    earlier.parent.mkdir(parents=True)
    earlier.touch()
    return Exported(checkpoint, repository, export_tiny(checkpoint, repository))


@pytest.fixture(autouse=True)
def signals_find_their_stack() -> Iterator[None]:
    """OpenVINO, opened several times outside of our engine, leaves a freed one (service/engines/runtimes.py)."""
    stack = signals.get()
    yield
    signals.put(stack)
