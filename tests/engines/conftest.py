"""The tiny repository, written once."""

from pathlib import Path

import pytest

from tests.engines.tiny import write_repository


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read only; tests that damage it copy it first."""
    folder = tmp_path_factory.mktemp("repository")
    write_repository(folder)
    return folder
