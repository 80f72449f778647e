"""A real service on loopback and a real Chromium."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from playwright.sync_api import Browser, Page, Request, sync_playwright

CHROMIUM = Path("/usr/bin/chromium")
ARGS = ["--disable-gpu", "--disable-dev-shm-usage", "--no-sandbox"]


@contextmanager
def serving(app: FastAPI) -> Iterator[str]:
    """The address of ``app`` behind uvicorn on a free port."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        thread.join(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        yield browser
        browser.close()


class Visit:
    """The page as a person uses it; everything the browser complained about is in ``complaints``."""

    def __init__(self, page: Page, address: str) -> None:
        self.page, self.address = page, address
        self.complaints: list[str] = []
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("requestfailed", self._failed)
        page.set_default_timeout(60_000)

    def _failed(self, request: Request) -> None:
        if request.failure != "net::ERR_ABORTED":  # what the page itself gave up, or had read to its end
            self.complaints.append(request.url)

    def open(self, fragment: str = "") -> None:
        """Load the page, from scratch, and wait until the curves are drawn."""
        self.page.goto("about:blank")
        self.page.goto(self.address + fragment)
        self.page.wait_for_selector("#generate:enabled")

    def generate(self, prompt: str | None = None) -> None:
        """Generate with the button and wait for the end."""
        if prompt is not None:
            self.page.fill("#prompt", prompt)
        self.page.click("#generate")
        self.finished()

    def set(self, selector: str, value: str) -> None:
        """Choose or type, then leave the field."""
        field = self.page.locator(selector)
        (field.select_option if field.evaluate("node => node.tagName") == "SELECT" else field.fill)(value)
        field.blur()

    def finished(self, said: str = "Developed.") -> None:
        self.page.wait_for_function("said => document.getElementById('status').textContent === said", arg=said)

    def picture(self) -> bytes:
        """The file that the download link of the picture on the stage gives."""
        with self.page.expect_download() as download:
            self.page.click("a[download]")
        return download.value.path().read_bytes()

    def recipe(self) -> dict[str, Any]:
        """The recipe shown beside the picture on the stage."""
        return json.loads(self.page.text_content(".json pre"))
