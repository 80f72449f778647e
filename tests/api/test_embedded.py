"""The contracts of the route on the model that the repository ships, over the embedded engine."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from service.engines.factory import open_engine
from service.images import recipe_of
from service.settings import Settings
from tests.api.harness import Running, serving

BODY: dict[str, Any] = {"prompt": "a red boat on the sea at dusk", "seed": 7, "num_inference_steps": 4}
OTHERS = ["euler", "euler_ancestral", "heun", "dpmpp_2m_sde", "ddim", "unipc", "dpmpp_sde"]


@pytest.fixture(scope="module")
def postcard() -> Iterator[Running]:
    with serving(open_engine(Settings())) as service:
        yield service


def picture(running: Running, body: dict[str, Any]) -> bytes:
    answer = running.post(body, headers={"accept": "image/png"})
    assert answer.status_code == 200, answer.text
    return answer.content


def test_neighbours_and_the_echoed_recipe_give_identical_bytes(postcard: Running) -> None:
    alone = picture(postcard, BODY)
    assert recipe_of(alone)["model"] == "postcard"
    others = [{**BODY, "seed": i, "sampler": name, "num_inference_steps": 3 + i} for i, name in enumerate(OTHERS)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda body: picture(postcard, body), [*others[:4], BODY, *others[4:]]))
    assert together[4] == alone
    assert len(set(together)) == 8
    assert picture(postcard, recipe_of(alone)) == alone


def test_a_prompt_that_the_tokenizer_cannot_hold_is_refused_with_its_length(postcard: Running) -> None:
    answer = postcard.post({**BODY, "prompt": "boat " * 100})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "prompt")
    assert "tokens long" in answer.json()["error"]["message"]
