"""Every family: what diffusers draws from a checkpoint, we draw from its export."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch.export.passes import move_to_device_pass

from export import families, repository
from export.__main__ import main
from export.checkpoint import Checkpoint
from export.plans import profiles
from export.torch_runtime import Torch
from export.weights import rebuild
from service.diffusion.noise import SeededNoise
from service.engines.contract import Engine, Ticket
from service.engines.factory import open_engine
from service.pipeline import generate
from service.recipe import Overrides, load_presets, resolve
from service.settings import Settings
from tests.export.shapes import corners, infer_shapes
from tests.families import TINY
from tests.models import export_tiny

pytestmark = pytest.mark.slow

PROMPT, NEGATIVE, SEED, STEPS, SCALE = "A Red cube, 2 at dusk ", "fog", 5, 6, 3.0
FLOW_CLIP = 1 - 1e-4


@dataclass(frozen=True)
class Case:
    """An exported family beside diffusers' own pipeline, whose parameters are rounded as the exported ones."""

    checkpoint: Path
    repository: Path
    engine: Engine
    pipeline: Any

    def conditioning(self, prompt: str) -> dict[str, np.ndarray]:
        tokens = self.engine.tokenize("tiny", prompt)
        return dict(self.engine.encode_text("tiny", tokens, Ticket()).arrays)


@pytest.fixture(scope="module", params=TINY)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp(request.param)
    checkpoint = TINY[request.param](folder / "checkpoint")
    export_tiny(checkpoint, folder / "repository")
    settings = Settings(
        model_repository=folder / "repository", default_model="tiny", precision="fp32", cache_dir=folder / "cache"
    )
    pipeline = diffusers.DiffusionPipeline.from_pretrained(checkpoint)
    for module in pipeline.components.values():
        if isinstance(module, torch.nn.Module):
            module.half().float()
    pipeline.set_progress_bar_config(disable=True)
    return Case(checkpoint, folder / "repository", open_engine(settings), pipeline)


def encode(pipeline: Any) -> dict[str, torch.Tensor]:
    """What the pipeline itself gives its denoiser for the prompt."""
    match pipeline:
        case diffusers.StableDiffusionPipeline():
            states, _ = pipeline.encode_prompt(PROMPT, "cpu", 1, True, NEGATIVE)
            return {"encoder_hidden_states": states}
        case diffusers.StableDiffusionXLPipeline():
            states, _, pooled, _ = pipeline.encode_prompt(PROMPT, negative_prompt=NEGATIVE)
            return {"encoder_hidden_states": states, "text_embeds": pooled}
        case diffusers.PixArtSigmaPipeline():
            states, mask, _, _ = pipeline.encode_prompt(PROMPT, negative_prompt=NEGATIVE)
            return {"encoder_hidden_states": states, "encoder_attention_mask": mask}
        case diffusers.StableDiffusion3Pipeline():
            states, _, pooled, _ = pipeline.encode_prompt(PROMPT, None, None, negative_prompt=NEGATIVE)
            return {"encoder_hidden_states": states, "pooled_projections": pooled}
    raise AssertionError(pipeline)


def test_verify_passes(case: Case) -> None:
    result = CliRunner().invoke(main, ["verify", str(case.checkpoint), str(case.repository), "--name", "tiny"])
    assert result.exit_code == 0, result.output
    assert result.output.count("ok") >= 10


def test_conditioning_is_that_of_the_pipeline(case: Case) -> None:
    with torch.no_grad():
        expected = encode(case.pipeline)
    found = case.conditioning(PROMPT)
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        np.testing.assert_allclose(found[name], tensor[0].numpy(), atol=2e-5, err_msg=name)


def test_rebuilt_pipeline_draws_the_same_picture(case: Case) -> None:
    rebuilt = rebuild(case.repository, "tiny")
    assert type(rebuilt) is type(case.pipeline)
    rebuilt.set_progress_bar_config(disable=True)
    pictures = [theirs(pipeline, torch.randn(1, *latent_shape(case), generator=torch.Generator().manual_seed(0)))
                for pipeline in (case.pipeline, rebuilt)]  # fmt: skip
    np.testing.assert_array_equal(*pictures)


@pytest.mark.parametrize("negative", [NEGATIVE, None], ids=["negative", "none"])
def test_our_picture_is_diffusers_picture(case: Case, negative: str | None) -> None:
    """A wide picture, so that height and width cannot be exchanged."""
    noise = SeededNoise(SEED, latent_shape(case)).draw()
    expected = theirs(case.pipeline, torch.from_numpy(noise)[None].float(), negative)
    assert expected.std() > 0.02, "a flat picture proves nothing"
    ours = generate(case.engine, recipe(case, negative), Ticket()).pixels
    assert np.abs(ours.astype(int) - np.round(expected * 255).astype(int)).max() <= 1


def test_torch_program_computes_the_bits_of_the_module(case: Case, tmp_path: Path) -> None:
    """Also on another device: nothing is left on the one it was traced on."""
    network = families.load(Checkpoint(case.checkpoint)).denoiser
    repository.write_program(network, tmp_path)
    inputs = network.example(2, 2, 3, seed=1)
    feeds = {port.name: tensor.numpy() for port, tensor in zip(network.inputs, inputs, strict=True)}
    found = Torch(tmp_path / "1" / "model.pt2", "cpu", attention="sdpa", compile="off")(feeds)
    assert list(found) == ["out_sample"]
    np.testing.assert_array_equal(found["out_sample"], network(*inputs).numpy())
    moved = move_to_device_pass(torch.export.load(tmp_path / "1" / "model.pt2"), "meta")
    output = moved.module()(*(tensor.to("meta") for tensor in inputs))
    assert (output.device.type, output.shape) == ("meta", inputs[0].shape)


def test_shapes_follow_at_every_corner_of_every_tensorrt_profile(case: Case) -> None:
    model = case.engine.models["tiny"]
    file = case.repository / model.networks[model.denoiser].entry / "1" / "model.onnx"
    for profile in profiles(model, model.denoiser):
        for shapes in corners(profile):
            assert infer_shapes(file, shapes) == {"out_sample": list(shapes["sample"])}


def latent_shape(case: Case) -> tuple[int, int, int]:
    return case.engine.models["tiny"].latent.channels, 8, 16


def theirs(pipeline: Any, latents: torch.Tensor, negative: str | None = NEGATIVE) -> np.ndarray:
    extra = {"use_resolution_binning": False} if isinstance(pipeline, diffusers.PixArtSigmaPipeline) else {}
    extra |= {} if negative is None else {"negative_prompt": negative}
    if not isinstance(pipeline, diffusers.StableDiffusion3Pipeline):
        scheduler = diffusers.EulerDiscreteScheduler
        pipeline.scheduler = scheduler.from_config(pipeline.scheduler.config, timestep_spacing="trailing")
    return pipeline(
        PROMPT, num_inference_steps=STEPS, guidance_scale=SCALE, latents=latents,
        height=16, width=32, output_type="np", **extra,
    ).images[0]  # fmt: skip


def recipe(case: Case, negative: str | None) -> Any:
    request: dict[str, Any] = {
        "prompt": PROMPT, "negative_prompt": negative or "", "seed": SEED, "guidance_scale": SCALE, "sampler": "euler",
        "guidance_interval": None, "preset": "balanced", "width": 32, "height": 16,
    }  # fmt: skip
    if case.engine.models["tiny"].noise_schedule.kind == "flow":
        case.pipeline.scheduler.set_timesteps(STEPS)
        t = np.minimum(case.pipeline.scheduler.sigmas.double().numpy(), FLOW_CLIP)
        request["sigmas"] = [float(value) for value in t / (1 - t)]
    else:
        request |= {"schedule": "trailing", "num_inference_steps": STEPS}
    engine = case.engine
    return resolve(Overrides.parse(request), load_presets(), engine.models, engine.name, engine.precision)
