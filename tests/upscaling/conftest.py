"""A tiny upsampler of random weights beside the tiny model, served by the embedded engine."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from export.repository import add
from export.upsampler import Upsampler as Exported
from service.engines.contract import Upsampler as Facts
from service.engines.embedded import EmbeddedEngine
from service.engines.runtimes import OpenVino
from service.upscale import Upscale
from tests.engines.tiny import NAME, write_repository
from training.upsampler import Upsampler

HOW = Upscale(NAME, 4, "euler", (2.0, 0.6, 0.2, 0.05, 0.0), seed=7)


@pytest.fixture(scope="session")
def network() -> Upsampler:
    """Every parameter random and as the file stores it, so that everything that is attended to matters."""
    torch.manual_seed(0)
    made = Upsampler(
        block=16,
        patch=4,
        lowres_patch=2,
        thumbnail=8,
        width=32,
        heads=2,
        layers=2,
        channels=8,
        residuals=1,
        sigma_data=0.5,
        edge=0.9,
    )
    for parameter in made.parameters():
        inputs = parameter[0].numel() if parameter.shape[-2:] == (3, 3) else parameter.shape[-1]
        torch.nn.init.normal_(parameter, std=1.5 / inputs**0.5)
        parameter.data.copy_(parameter.half())
    return made.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def repository(network: Upsampler, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    write_repository(folder)
    facts = Facts(block=16, factor=4, thumbnail=8, sigma_min=0.02, sigma_max=2.0, sigmas=HOW.sigmas)
    add(Exported(network, cache="fp32"), folder, NAME, upsampler=facts)
    return folder


@pytest.fixture(scope="session")
def open_engine(
    repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], EmbeddedEngine]]:
    """By precision: fp32, or auto for what this CPU has."""
    opened: dict[str, EmbeddedEngine] = {}

    def open_one(precision: str) -> EmbeddedEngine:
        if precision not in opened:
            opened[precision] = EmbeddedEngine(repository, OpenVino(precision, 2, tmp_path_factory.mktemp("cache")))
        return opened[precision]

    yield open_one
    for engine in opened.values():
        engine.close()
