"""The page in a real Chromium against a real server: prompt, recipe, picture."""

import io
import json

import httpx
import pytest
from PIL import Image
from playwright.sync_api import Browser

from service.app import create_app
from service.images import PNG_KEY
from service.settings import Settings
from tests.e2e.browser import Visit, serving
from tests.e2e.conftest import Open

pytestmark = pytest.mark.browser


def test_prompt_becomes_picture(visit: Open):
    one = visit()
    one.generate("mountains at dawn")
    picture = Image.open(io.BytesIO(one.picture()))
    assert (picture.format, picture.size) == ("PNG", (256, 256))
    assert one.page.get_attribute(".paper img", "alt") == "mountains at dawn"
    assert one.recipe() == json.loads(picture.text[PNG_KEY])
    assert one.page.locator("#timing dt").all_text_contents() == ["Queue", "Text encode", "Denoise", "Decode", "Encode"]
    assert one.complaints == []


def test_waits_for_a_service_that_starts(visit: Open, address: str):
    one = visit()
    one.page.route(
        address + "v1/presets", lambda route: route.fulfill(status=503, json={"error": {"message": "starting"}})
    )
    one.page.goto("about:blank")
    one.page.goto(address)
    one.page.wait_for_function("() => document.getElementById('problem').textContent === 'starting'")
    one.page.unroute_all()
    one.page.wait_for_selector("#generate:enabled")
    assert one.page.text_content("#problem") == ""
    one.generate("the sea")


def test_compares_presets_for_one_prompt_and_seed(visit: Open):
    one = visit()
    one.page.check("[name=compare]")
    for name in ("fast", "ays", "balanced"):
        one.page.check(f"[name=preset][value={name}]")
    one.generate("the sea at night")
    titles = one.page.locator(".frame figcaption strong").all_text_contents()
    assert sorted(titles) == ["Align Your Steps", "Balanced", "Fast"]
    recipes, pictures = [], set()
    for index in range(3):
        one.page.click(f".pick >> nth={index}")
        recipes.append(one.recipe())
        pictures.add(one.picture())
    assert {recipe["preset"] for recipe in recipes} == {"fast", "ays", "balanced"}
    assert len({(recipe["prompt"], recipe["seed"]) for recipe in recipes}) == 1
    assert len(pictures) == one.page.locator("#film button").count() == 3


def test_curves_are_those_of_explain(visit: Open, address: str):
    one = visit()
    for name in ("fast", "quality"):
        one.page.check(f"[name=preset][value={name}]")
        steps = httpx.post(address + "v1/explain", json={"prompt": "", "preset": name}).json()["steps"]
        one.page.wait_for_function("n => document.querySelectorAll('.dot').length === n", arg=len(steps))
        assert one.page.locator(".dot.guided").count() == sum(len(step["rows"]) > 1 for step in steps)
        assert one.page.locator("#steps-table tbody tr").count() == len(steps)


def test_curves_of_several_presets_stand_side_by_side(visit: Open, address: str):
    one = visit()
    one.page.check("[name=compare]")
    names = ("fast", "ays", "balanced")
    for name in names:
        one.page.check(f"[name=preset][value={name}]")
    plans = [httpx.post(address + "v1/explain", json={"prompt": "", "preset": name}).json() for name in names]
    calls = [step for plan in plans for step in plan["steps"]]
    one.page.wait_for_function("n => document.querySelectorAll('.dot').length === n", arg=len(calls))
    assert one.page.locator("#legend li").count() == len(names)
    table = one.page.locator("#steps-table")
    assert table.locator("thead th").all_text_contents()[0] == "Preset"
    assert table.locator("tbody tr").count() == len(calls)
    cells = [row.locator("td").all_text_contents() for row in table.locator("tbody tr").all()]
    assert sorted({title for title, *_ in cells}) == ["Align Your Steps", "Balanced", "Fast"]
    assert sorted(float(cell[3]) for cell in cells) == pytest.approx(sorted(step["sigma"] for step in calls), rel=1e-3)
    assert [cell[5] for cell in cells].count("yes") == sum(len(step["rows"]) > 1 for step in calls)


WRONG = [
    ("#steps", "0", "num_inference_steps"),
    ("#seed", "-1", "seed"),
    ("#sigmas", "5, 7, 0", "sigmas"),
    ("#sigmas", "5, many, 0", "sigmas"),
    ("#guidance", "1e9", "guidance_scale"),
    ("#others", '{"darkness": 3}', "others"),
    ("#others", "[1]", "others"),
    ("#prompt", "x" * 40_000, "prompt"),
    ("#prompt", "x" * 1025, "prompt"),
]


def test_error_stands_beside_its_field(visit: Open):
    one = visit()
    one.page.click("#advanced summary")
    for selector, value, field in WRONG:
        one.page.fill(selector, value)
        one.page.keyboard.press("Control+Enter")
        error = one.page.locator(f"[data-field={field}] > .error")
        one.page.wait_for_function("id => document.activeElement.id === id", arg=selector[1:])
        error.wait_for()
        assert one.page.get_attribute(selector, "aria-invalid") == "true"
        assert one.page.get_attribute(selector, "aria-describedby") == error.get_attribute("id")
        assert one.page.locator(".error:visible").count() == 1
        one.page.fill(selector, "")
    one.generate("the sea")
    assert one.page.locator(".error:visible").count() == 0


def test_keyboard_alone(visit: Open):
    one = visit()
    press = one.page.keyboard.press
    focused = "document.activeElement.name || document.activeElement.id"
    while one.page.evaluate(focused) != "prompt":
        press("Tab")
    one.page.keyboard.type("a pine forest")
    while one.page.evaluate(focused) != "preset":
        press("Tab")
    press("ArrowUp")
    press("Control+Enter")
    one.finished()
    assert one.page.locator("#film button").count() == 1
    press("Control+Enter")
    one.page.wait_for_function("() => document.querySelectorAll('#film button').length === 2")
    assert one.recipe()["preset"] == "ays"
    while one.page.evaluate("!document.activeElement.closest('#film')"):
        press("Tab")
    press("ArrowRight")
    press("Enter")
    assert one.page.get_attribute("#film [aria-current=true]", "aria-label").startswith("Picture 1: a pine forest")


def test_hostile_prompt_stays_text(visit: Open):
    prompt = """<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'"&\u202e💥"""
    one = visit()
    one.generate(prompt)
    assert one.page.text_content(".prompt") == prompt
    assert one.page.get_attribute(".paper img", "alt") == prompt
    assert one.page.evaluate("window.hacked") is None
    one.open(one.page.evaluate("location.hash"))
    assert one.page.input_value("#prompt") == prompt
    assert one.page.evaluate("window.hacked") is None
    assert one.complaints == []


def test_hostile_address_leaves_a_page_that_works(visit: Open):
    one = visit()
    for fragment in (
        "#seed=[1]&preset=nope&sigmas=x",
        "#model=nope",
        "#%00=%ff&sampler_options=null&prompt",
        "#[]{}&n=0",
    ):
        one.open(fragment)
        one.page.evaluate("document.getElementById('clear').click()")
        one.page.check("[name=preset][value=fast]")
        one.page.select_option("#model", "gaussian")
        one.page.fill("#seed", "3")
        one.generate("the sea")
        assert one.picture()


CHANGES = (
    {"#size": "64x64"},
    {"#sampler": "dpmpp_2m_sde", "[name='sampler_options.eta']": "0.5", "#steps": "9"},
    {"#schedule": "karras", "[name='schedule_options.rho']": "5", "#negative": "rain", "#interval": "off"},
    {"#sigmas": "[20, 5, 1, 0.2, 0]", "#size": "384x256"},
    {"#others": '{"guidance_scale": 2}', "#scaling": "on", "[name='epsilon_scaling.scale']": "1.01"},
)


def test_use_this_recipe_gives_the_same_bytes(visit: Open):
    one = visit()
    one.page.click("#advanced summary")
    for count, changes in enumerate(CHANGES):
        for selector, value in changes.items():
            one.set(selector, value)
        one.generate("a blue cube in a meadow")
        first, recipe = one.picture(), one.recipe()
        one.page.click("#clear")
        one.page.check("[name=preset][value=fast]")
        one.set("#size", "64x64")
        one.set("#seed", "1")
        one.page.click("text=Use this recipe")
        one.finished("The recipe is in the form.")
        one.generate()
        assert (one.picture(), one.recipe()) == (first, recipe)
        assert one.page.locator("#film button").count() == 2 * (count + 1)
        one.page.click("#clear")
        one.page.uncheck("[name=keep]")


def test_address_is_the_recipe(visit: Open):
    one = visit()
    one.page.click("#advanced summary")
    guidance = {"#method": "apg", "[name='guidance_options.momentum']": "-0.25"}
    for selector, value in (CHANGES[1] | guidance).items():
        one.set(selector, value)
    one.generate("the sea & 50% of #snow at night+day")
    first, recipe = one.picture(), one.recipe()
    assert recipe["guidance_method"] == "apg"
    assert recipe["guidance_options"] == {"momentum": -0.25, "norm_threshold": 0.0, "parallel": 0.0}
    one.open(one.page.evaluate("location.hash"))
    one.generate()
    assert (one.picture(), one.recipe()) == (first, recipe)


def test_postcard(browser: Browser):
    with serving(create_app(Settings())) as address:
        one = Visit(browser.new_page(), address)
        one.open()
        one.generate("a red ball in the desert at sunset")
        first = one.picture()
        one.page.click("text=Use this recipe")
        one.finished("The recipe is in the form.")
        one.generate()
        assert one.picture() == first
        assert Image.open(io.BytesIO(first)).size == (256, 256)
        assert one.complaints == []
        one.page.close()
