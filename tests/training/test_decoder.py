"""The decoder: where it starts, its losses, and that it goes on where it stopped."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from export.subpixel import SubpixelDecoder
from training import autoencoder, config, data, decoder, losses
from training.judge import Judge


@pytest.fixture(scope="module")
def pictures() -> Any:
    return data.render_seeds(range(8), 64)


@pytest.fixture
def run(tmp_path: Path, pictures: Any) -> SimpleNamespace:
    """A run of eight small pictures with their PCA, adversarial from the first step."""
    settings = config.load()
    settings.paths.runs = tmp_path
    settings.world.size, settings.world.chunk, settings.world.pictures = 64, 8, 8
    a = settings.autoencoder
    a.crop, a.batch, a.blocks, a.layers, a.discriminator = 2, 2, [0, 8, 8, 8, 16], [0, 0, 1, 1, 1], [8, 8]
    a.perceptual, a.adversarial, a.adversarial_start = 0.1, 0.5, 0.0
    data.save_atomically(data.chunk_path(settings, 0), pictures)
    data.save_atomically(tmp_path / "held-out.npy", pictures[: a.held_out])
    torch.manual_seed(0)
    torch.save(Judge().state_dict(), tmp_path / "eye.pt")
    return settings


def test_the_decoder_starts_at_the_linear_inverse(run: SimpleNamespace, pictures: Any) -> None:
    pca = autoencoder.pca(run)
    latents = pca.encode(pictures)
    made = autoencoder.build(run, pca).decode(torch.from_numpy(latents) / pca.scaling_factor).sample
    np.testing.assert_allclose(made.detach().permute(0, 2, 3, 1).numpy(), pca.decode(latents), atol=1e-5)
    figures = decoder.psnr(run)
    assert figures["decoder"] == pytest.approx(figures["linear"], abs=1e-4)


def test_the_encoder_is_the_analysis(run: SimpleNamespace, pictures: Any) -> None:
    pca = autoencoder.pca(run)
    latents = autoencoder.Encoder(pca)(decoder.to_pixels(torch.from_numpy(pictures)))
    np.testing.assert_allclose(latents.numpy(), pca.encode(pictures), atol=1e-4)


def test_a_uniform_latent_can_become_any_patch() -> None:
    """What nearest upsampling and convolutions cannot do, whatever their weights."""
    patch = torch.rand(48, generator=torch.Generator().manual_seed(0))
    net = SubpixelDecoder(1, (0, 8, 8), (0, 0, 0))
    net.set_linear(patch[None], torch.zeros(48))
    pixels = net.decode(torch.ones(1, 1, 2, 3), return_dict=False)[0]
    torch.testing.assert_close(pixels[0], patch.reshape(4, 4, 3).permute(2, 0, 1).repeat(1, 2, 3))


def test_four_steps_equal_two_and_two_resumed(run: SimpleNamespace) -> None:
    straight, first, second = (decoder.Trainer(run) for _ in range(3))
    crops = decoder.Crops(run)
    for _ in range(4):
        straight.step(crops, 0.1)
    for _ in range(2):
        first.step(crops, 0.1)
    decoder.save(run, first, 1.0)
    second.restore(torch.load(decoder.checkpoint_path(run)))
    for _ in range(2):
        second.step(crops, 0.1)
    for name, expected in straight.net.state_dict().items() | straight.critic.state_dict().items():
        found = (second.net.state_dict() | second.critic.state_dict())[name]
        assert torch.equal(expected, found), name
    assert all(torch.equal(a, b) for a, b in zip(straight.ema, second.ema, strict=True))


def test_decibel_of_a_known_error() -> None:
    truth = torch.zeros(2, 3, 4, 4)
    assert decoder.decibel(truth + 0.2, truth) == pytest.approx(20.0, abs=1e-4)  # 10 log10(4 / 0.04)


def test_the_adversarial_gradient_is_as_large_as_the_other() -> None:
    last = torch.tensor([3.0, 4.0], requires_grad=True)
    weight = losses.adaptive_weight(5 * last.sum(), 0.25 * last.sum(), last)
    assert float(weight) == pytest.approx(20.0, rel=1e-3)


def test_hinge_loss_of_known_scores() -> None:
    real, fake = torch.tensor([2.0, 0.0]), torch.tensor([-2.0, 1.0])
    assert float(losses.hinge_loss(real, fake)) == pytest.approx((0.5 + 1.0) / 2)


def test_losses_vanish_for_the_same_picture_alone(pictures: Any) -> None:
    a = decoder.to_pixels(torch.from_numpy(pictures[:2]))
    judge = Judge().eval()
    for loss in (losses.gradient_loss, lambda x, y: losses.perceptual_loss(judge, x, y)):
        assert float(loss(a, a).detach()) == 0.0
        assert float(loss(a, a.flip(0)).detach()) > 0.0
    assert float(losses.gradient_loss(a + 0.3, a)) == pytest.approx(0.0, abs=1e-6)
