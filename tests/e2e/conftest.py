"""A service with the gaussian engine and a browser, shared by the tests of one file."""

import threading
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser

from service.app import create_app
from service.engines.gaussian import GaussianEngine
from service.settings import Settings
from tests.e2e.browser import Visit, chromium, serving

Open = Callable[..., Visit]


class Patient(GaussianEngine):
    """An engine that can be made to wait before every network call."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        self.go.set()

    def predict(self, *arguments, **named):
        self.go.wait(10)
        return super().predict(*arguments, **named)


@pytest.fixture(scope="module")
def engine() -> Patient:
    return Patient()


@pytest.fixture(scope="module")
def address(engine: Patient) -> Iterator[str]:
    with serving(create_app(Settings(engine="gaussian"), engine)) as found:
        yield found


@pytest.fixture(scope="module")
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
