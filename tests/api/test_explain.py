"""A recipe explained over HTTP: as a table, or drawn."""

from typing import Any
from xml.etree import ElementTree as ET

import pytest

from service import chart
from service.engines.gaussian import GaussianEngine
from service.recipe import Recipe
from tests.api.harness import Running

ROUTE = "/v1/explain"
BODY: dict[str, Any] = {
    "prompt": "<b>&",
    "seed": 7,
    "sampler": "heun",
    "num_inference_steps": 6,
    "negative_prompt": "fog",
}
MODEL = GaussianEngine().models["gaussian"]


@pytest.mark.parametrize("accept", ["", "*/*", "application/json", "image/svg+xml;q=0.5, application/json"])
def test_the_table_is_the_recipes_calls(running: Running, accept: str) -> None:
    answer = running.post(BODY, ROUTE, headers={"accept": accept})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    recipe = Recipe.model_validate(answer.json()["recipe"])
    expected = [call._asdict() | {"rows": list(call.rows)} for call in recipe.calls(MODEL)]
    assert answer.json()["steps"] == expected
    assert len(expected) == 11


@pytest.mark.parametrize("accept", ["image/svg+xml", "image/*", "text/html, image/svg+xml, */*;q=0.1"])
def test_the_picture_is_the_charts(running: Running, accept: str) -> None:
    answer = running.post(BODY, ROUTE, headers={"accept": accept})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/svg+xml")
    recipe = Recipe.model_validate(running.post(BODY, ROUTE).json()["recipe"])
    assert answer.text == chart.steps(recipe, recipe.calls(MODEL))
    assert len(list(ET.fromstring(answer.content).iter("{http://www.w3.org/2000/svg}circle"))) == 11


def test_other_media_and_idle_fields_are_refused(running: Running) -> None:
    assert running.post(BODY, ROUTE, headers={"accept": "image/png"}).status_code == 406
    refused = running.post({**BODY, "guidance_scale": 1}, ROUTE, headers={"accept": "image/svg+xml"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "negative_prompt")


def test_the_schema_offers_both(running: Running) -> None:
    document = running.client.get("/openapi.json").json()
    content = document["paths"][ROUTE]["post"]["responses"]["200"]["content"]
    assert content.keys() == {"application/json", "image/svg+xml"}
    assert content["application/json"]["schema"] == {"$ref": "#/components/schemas/Explanation"}
    properties = document["components"]["schemas"]["ExplainRequest"]["properties"]
    networks = ("network", "initial_network", "residual_network")
    assert [properties[name]["enum"] for name in networks] == [["unet", None], [None], [None]]
