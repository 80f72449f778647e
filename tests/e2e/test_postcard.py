"""The shipped model on the embedded engine: what a recipe promises, kept across processes, echoes and neighbours."""

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler
from PIL import Image

from export.weights import rebuild
from service import images
from service.diffusion.noise import SeededNoise
from service.engines.contract import Ticket, load_descriptions
from service.engines.factory import open_engine
from service.pipeline import generate
from service.recipe import Overrides, load_presets, resolve
from service.settings import ROOT, Settings
from tests.api.harness import Running, serving

PROMPT = "a red sphere on the beach at sunset"
REQUEST = {"prompt": PROMPT, "seed": 7, "preset": "fast"}
PNG = {"Accept": "image/png"}
OTHERS = [
    {"sampler": "euler", "schedule": "linspace"},
    {"sampler": "euler_ancestral", "schedule": "karras"},
    {"sampler": "heun", "schedule": "exponential"},
    {"sampler": "dpmpp_2m_sde", "schedule": "trailing"},
    {"preset": "ays"},
    {"preset": "eps-scaled"},
    {"sampler": "euler", "guidance_interval": None, "num_inference_steps": 5},
]


@pytest.fixture(scope="module")
def postcard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    engine = open_engine(Settings(cache_dir=tmp_path_factory.mktemp("cache")))
    with serving(engine, model_repository=ROOT / "model_repository") as service:
        yield service


def picture(service: Running, body: dict[str, Any]) -> bytes:
    reply = service.post(body, headers=PNG)
    assert reply.status_code == 200, reply.text
    return reply.content


def test_a_new_process_with_empty_caches_draws_the_same_bytes(postcard: Running, tmp_path: Path) -> None:
    target = tmp_path / "picture.png"
    command = [
        Path(sys.executable).parent / "darkroom",
        "generate",
        PROMPT,
        "--seed",
        "7",
        "--preset",
        "fast",
        "-o",
        target,
    ]
    environment = os.environ | {"DARKROOM_CACHE_DIR": str(tmp_path / "cache")}
    subprocess.run(list(map(str, command)), check=True, cwd=tmp_path, env=environment, capture_output=True)
    assert target.read_bytes() == picture(postcard, REQUEST)


def test_the_echoed_recipe_draws_the_same_bytes(postcard: Running) -> None:
    first = picture(postcard, REQUEST)
    recipe = images.recipe_of(first)
    assert recipe["model"] == "postcard"
    assert recipe["engine"] == "embedded"
    assert picture(postcard, recipe) == first


def test_seven_neighbours_with_other_recipes_change_nothing(postcard: Running) -> None:
    alone = picture(postcard, REQUEST)
    crowd = [REQUEST, *({"prompt": "a blue cube", "seed": 1} | other for other in OTHERS)]
    with ThreadPoolExecutor(len(crowd)) as pool:
        together = list(pool.map(lambda body: picture(postcard, body), crowd))
    assert together[0] == alone
    assert len(set(together)) == len(crowd)


def test_enlarged_by_its_network_a_picture_keeps_its_colours_and_its_bytes(postcard: Running) -> None:
    small = picture(postcard, REQUEST)
    bodies = [REQUEST | {"upscale": {"factor": 4}}, {"prompt": "a blue cube", "upscale": {"factor": 4}, "seed": 1}]
    with ThreadPoolExecutor(len(bodies)) as pool:
        large, _ = pool.map(lambda body: picture(postcard, body), bodies)
    recipe = images.recipe_of(large)
    assert recipe["upscale"]["method"] == "network"
    assert picture(postcard, recipe) == large, "alone as beside another's blocks"
    with Image.open(io.BytesIO(small)) as before, Image.open(io.BytesIO(large)) as after:
        assert after.size == (4 * before.width, 4 * before.height)
        difference = np.asarray(after.reduce(32)).astype(int) - np.asarray(before.reduce(8))
    assert np.abs(difference).mean() < 1


def test_the_shipped_weights_rebuild_diffusers_pipeline_and_draw_its_picture(tmp_path: Path) -> None:
    engine = open_engine(Settings(precision="fp32", cache_dir=tmp_path))
    request = {"prompt": PROMPT, "seed": 7, "sampler": "euler", "schedule": "trailing", "guidance_interval": None}
    recipe = resolve(
        Overrides.parse(request | {"num_inference_steps": 6, "guidance_scale": 3.5, "preset": "balanced"}),
        load_presets(), engine.models, engine.name, engine.precision,
    )  # fmt: skip
    ours = generate(engine, recipe, Ticket()).pixels
    engine.close()

    pipeline = rebuild(ROOT / "model_repository", "postcard")
    pipeline.scheduler = EulerDiscreteScheduler.from_config(pipeline.scheduler.config, timestep_spacing="trailing")
    pipeline.set_progress_bar_config(disable=True)
    latents = torch.from_numpy(SeededNoise(7, (16, 16, 16)).draw())[None].float()
    theirs = pipeline(PROMPT, latents=latents, num_inference_steps=6, guidance_scale=3.5, output_type="np").images[0]
    assert np.abs(ours.astype(int) - np.round(theirs * 255).astype(int)).max() <= 1


def test_the_weights_fit_the_budget() -> None:
    networks = load_descriptions(ROOT / "model_repository")["postcard"][0].networks.values()
    files = [ROOT / "model_repository" / network.entry / "1" / network.file for network in networks]
    assert sorted(files) == sorted((ROOT / "model_repository").glob("postcard_*/1/*.onnx"))
    assert sum(file.stat().st_size for file in files) <= 60e6
