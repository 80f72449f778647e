"""A finished picture is enlarged on the page: before and after under a slider, a zoom, all of it by keyboard."""

import io

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.e2e.conftest import Open

pytestmark = pytest.mark.browser

SPLIT = "parseFloat(document.querySelector('.sheets').style.getPropertyValue('--split'))"
VIEW = "[document.querySelector('.view')].flatMap((v) => [v.clientWidth, v.scrollWidth, v.scrollLeft])"


def test_before_and_after_by_keyboard(visit: Open, address: str):
    one = visit()
    one.page.check("[name=preset][value=fast]")
    one.generate("the sea")
    small = one.picture()
    one.set(".enlarge [name=method]", "lanczos")
    one.page.focus(".enlarge [name=factor]")
    one.page.keyboard.press("Tab")
    one.page.keyboard.press("Tab")
    one.page.keyboard.press("Enter")
    one.page.wait_for_selector(".loupe")
    widths = "[...document.querySelectorAll('.sheets img')].map(({ naturalWidth }) => naturalWidth)"
    assert one.page.evaluate(widths) == [1024, 256]
    with one.page.expect_download() as download:
        one.page.click(".enlarge a[download]")
    with Image.open(io.BytesIO(small)) as image, Image.open(download.value.path()) as large:
        expected = image.resize((1024, 1024), Image.Resampling.LANCZOS)
        np.testing.assert_array_equal(np.asarray(large), np.asarray(expected))
    wide, _, _ = one.page.evaluate(VIEW)
    assert one.page.evaluate(SPLIT) == pytest.approx(wide / 2)
    one.page.focus(".loupe [name=split]")
    one.page.keyboard.press("End")
    assert one.page.evaluate(SPLIT) == pytest.approx(wide)
    one.page.keyboard.press("Tab")
    one.page.keyboard.press("ArrowRight")
    inner, total, left = one.page.evaluate(VIEW)
    assert total == pytest.approx(2 * wide, abs=2)
    assert left == pytest.approx(total / 4, abs=20), "the middle stays in the middle"
    assert one.page.evaluate(SPLIT) == pytest.approx(left + inner, abs=1)
    one.page.focus(".view")
    one.page.keyboard.press("ArrowRight")
    one.page.wait_for_function("left => document.querySelector('.view').scrollLeft > left", arg=left)
    models = httpx.get(address + "v1/models").json()["data"]
    offered = one.page.locator(".enlarge [name=method] option").all_text_contents()
    assert ("network" in offered) == ("upsampler" in models[0]["networks"])
    assert one.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert one.complaints == []
