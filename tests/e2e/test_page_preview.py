"""The picture on its way: previews, place in the queue, cancellation."""

import threading
from typing import Any

import httpx
import pytest
from playwright.sync_api import Route

from tests.api.harness import eventually
from tests.e2e.conftest import Open, Patient

pytestmark = pytest.mark.browser

ROUTE = "v1/images/generations"
LOADED = "() => document.querySelector('.previewed img')?.naturalWidth === 256"


def test_previews_come_before_the_picture(visit: Open, engine: Patient, address: str):
    one = visit()
    one.page.check("[name=preset][value=fast]")
    one.page.fill("#seed", "3")
    one.page.fill("#prompt", "the sea")
    engine.allow(0)
    one.page.click("#generate")
    one.page.wait_for_selector(".developing")
    for step in (2, 4, 6):
        engine.allow(2)
        one.finished(f"Step {step} of 8")
        one.page.wait_for_function(LOADED)
        assert one.page.text_content("#timing .quiet") == f"Step {step} of 8"
        assert one.page.evaluate(
            "getComputedStyle(document.querySelector('.paper')).getPropertyValue('--latent')"
        ) == str(1 - step / 8)
        assert one.page.get_attribute("#stage", "aria-busy") == "true"
        assert one.page.locator("#film button").count() == 0
    engine.allow()
    one.finished()
    body = {"prompt": "the sea", "seed": 3, "preset": "fast"}
    assert one.picture() == httpx.post(address + ROUTE, json=body, headers={"accept": "image/png"}).content
    assert one.recipe() == httpx.post(address + ROUTE, json=body).json()["data"][0]["recipe"]
    assert one.page.get_attribute(".paper img", "alt") == "the sea"
    assert one.complaints == []


def test_place_in_the_queue(visit: Open, engine: Patient, address: str):
    one = visit()
    engine.allow(0)
    nine: dict[str, Any] = {"prompt": "x", "size": "64x64", "num_inference_steps": 1, "n": 9}
    others = threading.Thread(target=httpx.post, args=(address + ROUTE,), kwargs={"json": nine, "timeout": 60})
    others.start()
    eventually(lambda: len(engine.calls) == 8)
    one.page.click("#generate")
    one.finished("1 ahead")
    engine.allow()
    one.finished()
    others.join()


def test_cancel_frees_the_engine_and_leaves_the_picture_before(visit: Open, engine: Patient):
    one = visit()
    one.page.check("[name=preset][value=fast]")
    one.generate("first")
    before = one.picture()
    engine.allow(2)
    one.page.fill("#prompt", "second")
    with one.page.expect_request(f"**/{ROUTE}") as asked:
        one.page.click("#generate")
    one.page.wait_for_selector(".previewed img")
    one.page.keyboard.press("Escape")
    one.finished("Cancelled.")
    ticket = engine.calls[-1]
    assert ticket.request_id == asked.value.headers["x-request-id"]
    eventually(ticket.cancelled.is_set)
    engine.allow()
    assert one.picture() == before
    assert one.page.locator("#film button").count() == 1
    assert one.page.get_attribute(".paper img", "alt") == "first"
    one.generate("third")
    assert one.picture() != before


@pytest.mark.parametrize("body", ["", ": 0 ahead\n\n", ': 0 ahead\n\nevent: image_generation.completed\ndata: {"b64'])
def test_a_stream_that_breaks_off_is_an_error(visit: Open, address: str, body: str):
    def broken(route: Route) -> None:
        route.fulfill(body=body, content_type="text/event-stream")

    one = visit()
    one.page.route(address + ROUTE, broken)
    one.page.click("#generate")
    one.finished("Not developed.")
    assert one.page.text_content("#problem") == "The connection broke off."
    one.page.unroute_all()
    one.generate("the sea")
    assert one.page.text_content("#problem") == ""
