"""How the page looks and what it loads, in a real Chromium."""

from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Route

from tests.e2e.conftest import Open

pytestmark = pytest.mark.browser

CONTRAST = (Path(__file__).parent / "contrast.js").read_text()


def test_phone_never_scrolls_sideways(visit: Open):
    one = visit(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    one.page.click("#advanced summary")
    one.page.select_option("#sampler", "dpmpp_2m_sde")
    one.page.select_option("#interval", "on")
    one.page.select_option("#scaling", "on")
    one.page.click("#steps-details summary")
    one.generate("unbroken" * 40)
    assert 0 <= one.page.locator(".paper").bounding_box()["y"] < 740, "the picture is in view"
    one.page.click(".json summary")
    assert one.page.evaluate("document.documentElement.scrollWidth") == 360


def test_nothing_moves_when_the_picture_arrives(visit: Open):
    one = visit()
    places = "['#film', '#stage', '.schedule'].map((s) => document.querySelector(s).getBoundingClientRect().top)"
    before = one.page.evaluate(places)
    one.page.fill("#prompt", "the sea")
    one.page.click("#generate")
    one.finished()
    assert one.page.evaluate(places) == before


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_text_is_readable(visit: Open, scheme: str):
    """WCAG 2.2, 1.4.3: a contrast of 4.5 for every visible text, in both themes."""
    one = visit(color_scheme=scheme, reduced_motion="reduce")
    one.page.click("#advanced summary")
    one.page.click("#steps-details summary")
    one.page.fill("#steps", "0")
    one.page.click("#generate")
    one.page.wait_for_selector(".field > .error")
    one.page.fill("#steps", "9")
    one.generate("the sea")
    brightness, poor = one.page.evaluate(CONTRAST)
    assert (brightness < 0.1) == (scheme == "dark")
    assert poor == []


def test_works_under_the_strictest_policy(visit: Open, address: str):
    """No inline script, style or handler; nothing from elsewhere."""
    policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'"

    def strict(route: Route) -> None:
        response = route.fetch()
        route.fulfill(response=response, headers={**response.headers, "content-security-policy": policy})

    one = visit()
    one.page.route(address, strict)
    one.open()
    assert one.page.evaluate("fetch('data:,').then(() => 'allowed', () => 'refused')") == "refused"
    one.complaints.clear()
    one.generate("the sea")
    assert one.picture()
    assert one.complaints == []


def test_every_file_of_the_page_is_served_and_nothing_comes_from_elsewhere(visit: Open, address: str):
    one = visit()
    loaded = one.page.evaluate("performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert all(name.startswith(address) for name in loaded)
    icon = httpx.get(address + one.page.get_attribute("link[rel=icon]", "href"))
    assert (icon.status_code, icon.headers["content-type"]) == (200, "image/svg+xml")
