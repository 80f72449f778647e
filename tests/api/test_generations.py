"""The route's contracts: the effective recipe reproduces, neighbours change nothing, nothing is silently dropped."""

import base64
import io
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from PIL import Image

from service.diffusion.samplers import SAMPLERS
from service.engines.contract import Ticket
from service.engines.gaussian import GaussianEngine
from service.images import recipe_of
from service.pipeline import generate
from service.recipe import Recipe, load_presets
from tests.api.harness import Running, serving

BODY: dict[str, Any] = {"prompt": "a café by the sea 🚤", "size": "64x64", "seed": 7}


def picture(running: Running, body: dict[str, Any]) -> bytes:
    answer = running.post(body)
    assert answer.status_code == 200, answer.text
    return base64.b64decode(answer.json()["data"][0]["b64_json"])


def test_the_answer_is_openais_with_recipe_and_timings(running: Running) -> None:
    answer = running.post(BODY)
    document = answer.json()
    assert {"created", "data", "size", "output_format", "background"} == document.keys()
    assert (document["size"], document["output_format"]) == ("64x64", "png")
    (made,) = document["data"]
    assert made["recipe"]["prompt"] == BODY["prompt"]
    assert {"queue", "text_encode", "denoise", "decode", "encode", "total"} <= made["timings"].keys()
    assert all(seconds >= 0 for seconds in made["timings"].values())
    assert made["timings"]["network_calls"] == made["recipe"]["num_inference_steps"]
    assert answer.headers["openai-processing-ms"].isdigit()


def test_the_pixels_are_the_pipelines(running: Running) -> None:
    made = running.post(BODY).json()["data"][0]
    expected = generate(GaussianEngine(), Recipe.model_validate(made["recipe"]), Ticket()).pixels
    with Image.open(io.BytesIO(base64.b64decode(made["b64_json"]))) as image:
        assert np.array_equal(np.asarray(image), expected)


PRESETS = [p.name for p in load_presets().values() if p.suits(GaussianEngine().models["gaussian"])]


@pytest.mark.parametrize("preset", PRESETS)
def test_the_echoed_recipe_fed_back_gives_identical_bytes_in_a_new_service(running: Running, preset: str) -> None:
    first = running.post({**BODY, "preset": preset}).json()["data"][0]
    with serving() as another:
        second = another.post(first["recipe"]).json()["data"][0]
    assert second["b64_json"] == first["b64_json"]
    assert second["recipe"] == first["recipe"]


def test_the_same_request_beside_seven_others_gives_identical_bytes(running: Running) -> None:
    alone = picture(running, BODY)
    samplers = sorted(SAMPLERS)[:7]
    others = [{**BODY, "seed": i, "sampler": name, "num_inference_steps": 5 + i} for i, name in enumerate(samplers)]
    bodies = [*others[:4], BODY, *others[4:]]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda body: picture(running, body), bodies))
    assert together[bodies.index(BODY)] == alone
    assert len(set(together)) == len(bodies) == 8


def test_n_pictures_are_the_pictures_of_consecutive_seeds(running: Running) -> None:
    made = running.post({**BODY, "n": 3}).json()["data"]
    assert [one["recipe"]["seed"] for one in made] == [7, 8, 9]
    assert [base64.b64decode(one["b64_json"]) for one in made] == [
        picture(running, {**BODY, "seed": seed}) for seed in (7, 8, 9)
    ]


def test_a_seed_is_drawn_where_none_is_given(running: Running) -> None:
    body = {"prompt": "x", "size": "64x64"}
    seeds = {running.post(body).json()["data"][0]["recipe"]["seed"] for _ in range(3)}
    assert len(seeds) == 3
    assert all(0 <= seed < 2**53 for seed in seeds)


@pytest.mark.parametrize(("media", "name"), [("image/png", "PNG"), ("image/webp", "WEBP"), ("image/jpeg", "JPEG")])
def test_accept_returns_the_file_with_its_recipe(running: Running, media: str, name: str) -> None:
    answer = running.post(BODY, headers={"accept": f"{media}, */*;q=0.1", "x-request-id": "mine-1"})
    assert (answer.status_code, answer.headers["content-type"]) == (200, media)
    assert (answer.headers["x-request-id"], answer.headers["x-darkroom-seed"]) == ("mine-1", "7")
    with Image.open(io.BytesIO(answer.content)) as image:
        assert (image.format, image.size) == (name, (64, 64))
    again = running.post(recipe_of(answer.content), headers={"accept": media})
    assert again.content == answer.content


def test_json_can_hold_every_format_at_the_quality_asked_for(running: Running) -> None:
    sizes = {}
    for quality in (5, 95):
        document = running.post({**BODY, "output_format": "webp", "output_compression": quality}).json()
        data = base64.b64decode(document["data"][0]["b64_json"])
        assert document["output_format"] == "webp"
        assert data[8:12] == b"WEBP"
        sizes[quality] = len(data)
    assert sizes[5] < sizes[95]


def test_null_is_absent_and_a_whole_number_may_be_written_with_a_point(running: Running) -> None:
    nulls = [
        "n",
        "user",
        "quality",
        "style",
        "background",
        "moderation",
        "stream",
        "response_format",
        "preset",
        "sigmas",
    ]
    assert picture(running, {**BODY, **dict.fromkeys(nulls)}) == picture(running, BODY)
    six, point = ({**BODY, "num_inference_steps": steps} for steps in (6, 6.0))
    assert picture(running, six) == picture(running, point)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"output_compression": 50}, "output_compression"),
        ({"n": 2, "accept": "image/png"}, "n"),
        ({"output_format": "webp", "accept": "image/png"}, "output_format"),
        ({"size": "64x64", "width": 256}, "size"),
        ({"seed": 2**53 - 1, "n": 2}, "seed"),
        ({"engine": "embedded"}, "engine"),
        ({"precision": "bf16"}, "precision"),
        ({"model_digest": "0" * 16}, "model_digest"),
        ({"prompt": "x" * 33_000}, "prompt"),
        ({"prompt": "x" * 1025}, "prompt"),
        ({"negative_prompt": "x" * 1025, "guidance_scale": 2.0}, "negative_prompt"),
    ],
)
def test_what_contradicts_is_refused_by_name(running: Running, body: dict[str, Any], field: str) -> None:
    accept = body.pop("accept", "*/*")
    answer = running.post({**BODY, **body}, headers={"accept": accept})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == field


def test_every_value_of_openai_that_we_do_not_honour_is_refused_by_name(running: Running) -> None:
    refused = {
        "response_format": ["url"],
        "quality": ["low", "medium", "high", "standard", "hd"],
        "style": ["vivid", "natural"],
        "background": ["transparent"],
        "moderation": ["low"],
        "output_format": ["gif"],
        "n": [0, 11, True, "1", 1.5],
        "size": ["1024", "0x64", "64x0", "64X64", "99999x99999", 64, ""],
        "output_compression": [-1, 101, True],
        "user": [7, "u" * 300],
    }
    for field, values in refused.items():
        for value in values:
            answer = running.post({**BODY, "output_format": "webp", field: value})
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, field), (field, value, answer.text)
