"""The way back from the repository to torch."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline

from export.subpixel import SubpixelDecoder
from export.weights import rebuild
from service.errors import UnknownModel
from tests.conftest import Exported
from tests.models import export_tiny, tiny_sd


@pytest.fixture(scope="module")
def pipelines(exported: Exported) -> tuple[StableDiffusionPipeline, StableDiffusionPipeline]:
    original = StableDiffusionPipeline.from_pretrained(exported.checkpoint)
    for module in (original.unet, original.text_encoder, original.vae):
        module.half().float()
    return original, rebuild(exported.repository, "tiny")


def test_rebuilt_modules_compute_the_same_bits(pipelines) -> None:
    original, _ = pipelines
    ids = original.tokenizer("a red cube", padding="max_length", return_tensors="pt").input_ids
    sample = torch.randn(1, 4, 6, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        states = [pipeline.text_encoder(ids)[0] for pipeline in pipelines]
        noise = [pipeline.unet(sample, 7, states[0]).sample for pipeline in pipelines]
        pixels = [pipeline.vae.decode(sample).sample for pipeline in pipelines]
    for pair in (states, noise, pixels):
        assert torch.equal(*pair)


def test_rebuilt_pipeline_draws_the_same_picture(pipelines) -> None:
    settings = {"num_inference_steps": 3, "guidance_scale": 4.0, "output_type": "np", "height": 16, "width": 16}
    pictures = []
    for pipeline in pipelines:
        pipeline.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(1)
        pictures.append(pipeline("a red cube, naïve", negative_prompt="fog", generator=generator, **settings).images)
    assert pictures[0].std() > 0.01
    np.testing.assert_array_equal(*pictures)


def test_rebuilt_scheduler_has_the_configuration_of_the_checkpoint(pipelines) -> None:
    original, rebuilt = pipelines
    assert type(rebuilt.scheduler) is DDPMScheduler
    assert {k: v for k, v in rebuilt.scheduler.config.items() if not k.startswith("_")} == {
        k: v for k, v in original.scheduler.config.items() if not k.startswith("_")
    }


def test_unknown_model_is_named_with_the_known_ones(exported) -> None:
    with pytest.raises(UnknownModel, match="no model huge; its models: tiny"):
        rebuild(exported.repository, "huge")


def test_a_decoder_of_the_projects_own_is_exported_and_rebuilt(tmp_path: Path) -> None:
    torch.manual_seed(0)
    decoder = SubpixelDecoder(4, (0, 8), (0, 1), scaling_factor=0.5)
    torch.nn.init.normal_(decoder.conv_out.weight)  # at first it adds nothing to the linear map
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_sd(tmp_path / "plain"), vae=decoder.half().float())
    pipeline.save_pretrained(tmp_path / "checkpoint")
    description = export_tiny(tmp_path / "checkpoint", tmp_path / "repository")
    assert description.latent.factor == 2
    sample = torch.randn(1, 4, 6, 4, generator=torch.Generator().manual_seed(0))
    rebuilt = rebuild(tmp_path / "repository", "tiny").vae
    assert type(rebuilt) is SubpixelDecoder
    with torch.no_grad():
        assert torch.equal(rebuilt.decode(sample).sample, decoder.decode(sample).sample)
