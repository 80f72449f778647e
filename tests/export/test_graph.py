"""The exported graphs: names, layout and values of the parameters; dynamic batch, size and clock."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from diffusers import StableDiffusionPipeline

from export import families
from export.checkpoint import Checkpoint
from export.graph import trace
from export.text_encoders import Clip
from export.weights import load_state_dict
from service.errors import InvalidRequest
from tests.conftest import Exported
from tests.models import clip_text, clip_tokenizer


@pytest.fixture(scope="module")
def original(exported: Exported) -> StableDiffusionPipeline:
    return StableDiffusionPipeline.from_pretrained(exported.checkpoint)


@pytest.mark.parametrize(
    ("role", "component"), [("text_encoder", "text_encoder"), ("unet", "unet"), ("vae_decoder", "vae")]
)
def test_initializers_are_the_parameters_rounded_to_fp16(exported, original, role, component) -> None:
    state = getattr(original, component).state_dict()
    if component == "vae":
        state = {name: value for name, value in state.items() if not name.startswith(("encoder.", "quant_conv."))}
    stored = load_state_dict(exported.onnx(role))
    assert set(stored) == set(state)
    for name, value in state.items():
        assert torch.equal(stored[name], value.half()), name


@pytest.mark.parametrize("role", ["text_encoder", "unet", "vae_decoder"])
def test_files_hold_no_path_and_weights_once(exported, role) -> None:
    content = exported.onnx(role).read_bytes()
    assert b"/" + b"site-packages" not in content
    assert str(exported.checkpoint).encode() not in content
    parameters = sum(2 * tensor.numel() for tensor in load_state_dict(exported.onnx(role)).values())
    assert len(content) < parameters + 200_000
    onnx.checker.check_model(exported.onnx(role), full_check=True)


@pytest.mark.parametrize(("batch", "height", "width"), [(1, 2, 2), (3, 4, 10), (9, 6, 2)])
def test_every_row_has_its_own_clock_at_any_size(exported, original, batch, height, width) -> None:
    session = onnxruntime.InferenceSession(exported.onnx("unet"))
    rng = np.random.default_rng(batch)
    sample = rng.standard_normal((batch, 4, height, width)).astype(np.float32)
    timestep = np.linspace(0.5, 999, batch).astype(np.float32)
    states = rng.standard_normal((batch, 77, 32)).astype(np.float32)
    feeds = {"sample": sample, "timestep": timestep, "encoder_hidden_states": states}
    together = session.run(["out_sample"], feeds)[0]
    assert together.shape == sample.shape
    unet = original.unet.half().float()
    for row in range(batch):
        with torch.no_grad():
            inputs = [torch.from_numpy(value[row : row + 1]) for value in feeds.values()]
            alone = unet(*inputs).sample.numpy()
        np.testing.assert_allclose(together[row : row + 1], alone, atol=2e-5)


def test_exporting_again_gives_the_same_graph(exported) -> None:
    model = families.load(Checkpoint(exported.checkpoint))
    again = ir.to_proto(trace(model.text_encoder, torch.float16)).graph
    assert again.SerializeToString(deterministic=True) == onnx.load(
        exported.onnx("text_encoder")
    ).graph.SerializeToString(deterministic=True)


def test_a_parameter_that_fp16_cannot_hold_is_named() -> None:
    module = clip_text(clip_tokenizer(), layers=1)
    torch.nn.init.constant_(module.final_layer_norm.weight, 1e5)
    with pytest.raises(InvalidRequest, match=r"final_layer_norm.weight is not finite in float16"):
        trace(Clip(module), torch.float16)
