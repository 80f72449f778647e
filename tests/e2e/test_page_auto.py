"""The page's preset "Auto": a deadline is asked for, what was chosen is said, and its recipe gives the same file."""

import httpx
import pytest

from tests.e2e.conftest import Open

pytestmark = pytest.mark.browser

ROUTE = "v1/images/generations"


def test_auto_asks_for_a_deadline_and_says_what_it_took(visit: Open, address: str):
    one = visit()
    one.page.check("[name=preset][value=fast]")
    assert not one.page.is_visible("#deadline-ms")
    one.page.check("[name=preset][value=auto]")
    one.set("#deadline-ms", "60000")
    with one.page.expect_request(f"**/{ROUTE}") as sent:
        one.generate("the sea at night")
    assert (sent.value.post_data_json["preset"], sent.value.post_data_json["deadline_ms"]) == ("auto", 60_000)
    recipe = one.recipe()
    assert (recipe["preset"] == "auto", recipe["preset_auto"]) == (False, True)
    again = httpx.post(address + ROUTE, json=recipe, headers={"accept": "image/png"}, timeout=60)
    same = again.content == one.picture()
    assert same
    one.page.check("[name=preset][value=fast]")
    with one.page.expect_request(f"**/{ROUTE}") as sent:
        one.generate()
    assert "deadline_ms" not in sent.value.post_data_json
    assert one.recipe()["preset_auto"] is False
    assert one.complaints == []


def test_auto_and_what_it_may_take_stand_side_by_side(visit: Open):
    one = visit()
    one.page.check("[name=compare]")
    for name in ("auto", "balanced"):
        one.page.check(f"[name=preset][value={name}]")
    one.generate("the sea at night")  # without a deadline both are the same picture
    recipes = []
    for index in range(2):
        one.page.click(f".pick >> nth={index}")
        recipes.append(one.recipe())
    assert sorted(recipe.pop("preset_auto") for recipe in recipes) == [False, True]
    assert recipes[0] == recipes[1]
    assert one.complaints == []
