"""A service with the gaussian engine and a browser, shared by all tests of the page."""

import math
import threading
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser

from service.app import create_app
from service.engines.contract import Ticket
from service.engines.gaussian import GaussianEngine
from service.settings import Settings
from tests.e2e.browser import Visit, chromium, serving

Open = Callable[..., Visit]


class Patient(GaussianEngine):
    """An engine that makes only as many network calls as a test allows, then waits for more."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Ticket] = []
        self._allowed = math.inf
        self._change = threading.Condition()

    def allow(self, calls: float = math.inf) -> None:
        with self._change:
            self._allowed = calls
            self._change.notify_all()

    def predict(self, *arguments):
        self.calls.append(arguments[-1])
        with self._change:
            assert self._change.wait_for(lambda: self._allowed > 0, 60)
            self._allowed -= 1
        return super().predict(*arguments)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Browser tests last: Playwright leaves an event loop running in this thread, where asyncio.run would refuse."""
    items.sort(key=lambda item: item.get_closest_marker("browser") is not None)


@pytest.fixture(scope="session")
def served() -> Patient:
    return Patient()


@pytest.fixture
def engine(served: Patient) -> Iterator[Patient]:
    """The engine behind the page, with nothing seen; it works on afterwards, however the test ended."""
    served.calls.clear()
    yield served
    served.allow()


@pytest.fixture(scope="session")
def address(served: Patient) -> Iterator[str]:
    with serving(create_app(Settings(engine="gaussian"), served)) as found:
        yield found


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture
def visit(browser: Browser, address: str) -> Iterator[Open]:
    """Opens the page in a fresh browser profile; the options are those of Playwright's contexts."""
    opened = []

    def visit(fragment: str = "", **options) -> Visit:
        defaults = {"viewport": {"width": 1280, "height": 900}, "reduced_motion": "reduce"}
        context = browser.new_context(**(defaults | options))
        opened.append(context)
        one = Visit(context.new_page(), address)
        one.open(fragment)
        return one

    yield visit
    for context in opened:
        context.close()
