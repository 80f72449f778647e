"""One server for every test that leaves it as it was."""

from collections.abc import Iterator

import pytest

from tests.api.harness import Running, serving


@pytest.fixture(scope="session")
def running() -> Iterator[Running]:
    with serving() as service:
        yield service
