"""The official openai client, unchanged."""

import base64
from collections.abc import Iterator

import openai
import pytest

from tests.api.harness import Running


@pytest.fixture(scope="module")
def client(running: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_generate(client: openai.OpenAI) -> None:
    answer = client.images.generate(
        model="gaussian",
        prompt="a red boat",
        n=2,
        size="256x256",
        response_format="b64_json",
        output_format="webp",
        output_compression=90,
        user="someone",
        extra_body={"seed": 5, "sampler": "heun", "num_inference_steps": 4},
    )
    assert answer.created > 0
    assert len(answer.data) == 2
    assert base64.b64decode(answer.data[0].b64_json)[8:12] == b"WEBP"
    assert answer.data[1].recipe["seed"] == 6
    echo = answer.data[1].recipe
    again = client.images.generate(prompt="", output_format="webp", output_compression=90, extra_body=echo)
    assert again.data[0].b64_json == answer.data[1].b64_json


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["gaussian"]
    assert client.models.retrieve("gaussian").owned_by == "darkroom"


def test_errors_are_parsed(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.images.generate(prompt="x", extra_body={"num_inference_steps": 0})
    assert (refused.value.param, refused.value.code) == ("num_inference_steps", "invalid_value")
    assert refused.value.type == "invalid_request_error"
    assert refused.value.request_id == refused.value.response.headers["x-request-id"]
    with pytest.raises(openai.BadRequestError) as refused:
        client.images.generate(prompt="x", quality="hd")
    assert refused.value.param == "quality"
    with pytest.raises(openai.NotFoundError) as missing:
        client.images.generate(model="gpt-image-1", prompt="x")
    assert (missing.value.param, missing.value.code) == ("model", "model_not_found")
