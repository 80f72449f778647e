"""Latents, tokenizer and resumption: equalities."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import CLIPTokenizer

from tests.training import tiny
from training import autoencoder, checkpoint, data, evaluate, stages, text, unet
from training.clock import Clock
from training.precision import autocast
from training.world import captions, draw

ODD = ("", "A Red  ball", "emoji 🎈🦄!", "日本語 çÀ É ß", "it's 12:30", "\n\t x", "İstanbul ﬁ", "\x00\x7f", "a" * 60)


@pytest.fixture(scope="module")
def pictures() -> Any:
    return data.render_seeds(range(12), 64)


@pytest.mark.parametrize(("amx", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_a_cpu_multiplies_in_what_it_is_built_for(
    amx: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": amx})
    with autocast("cpu"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


def test_pca_round_trip_is_a_projection(pictures: Any) -> None:
    pca = autoencoder.fit(pictures, patch=8, channels=16, exponent=0.7)
    latents = pca.encode(pictures)
    pixels = pca.decode(latents)
    again = (autoencoder.patches(pictures, 8) - pca.mean) @ pca.analysis @ pca.synthesis + pca.mean
    assert latents.shape == (12, 16, 8, 8)
    np.testing.assert_allclose(autoencoder.fit(pictures, 8, 16, 0.0).decode(latents * 0), pca.decode(latents * 0))
    np.testing.assert_allclose(latents.std(), 1, atol=0.05)
    np.testing.assert_allclose(latents.mean((0, 2, 3)), 0, atol=1e-3)
    np.testing.assert_allclose(pixels[0, :8, :8].reshape(-1), again[0, 0, 0], atol=1e-4)


def test_full_rank_pca_is_the_identity() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3)).astype(np.uint8)
    pca = autoencoder.fit(pixels, patch=4, channels=48, exponent=0.7)
    np.testing.assert_allclose(pca.decode(pca.encode(pixels)), pixels / 127.5 - 1, atol=1e-3)


def test_pca_file_round_trip(pictures: Any, tmp_path: Path) -> None:
    pca = autoencoder.fit(pictures, patch=8, channels=4, exponent=0.5)
    pca.save(tmp_path / "pca.npz")
    np.testing.assert_array_equal(autoencoder.Pca.load(tmp_path / "pca.npz").encode(pictures), pca.encode(pictures))


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return text.train_tokenizer([c for seed in range(400) for c in captions(draw(seed), 2)], 1200, 77)


def test_tokenizers_agree(tokenizer: CLIPTokenizer, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    bare, wrapped = Tokenizer.from_file(str(tmp_path / "tokenizer.json")), CLIPTokenizer.from_pretrained(tmp_path)
    for string in ODD + tuple(captions(draw(7), 4)):
        assert wrapped(string)["input_ids"] == bare.encode(string).ids == tokenizer(string)["input_ids"]


def test_every_byte_has_a_token(tokenizer: CLIPTokenizer) -> None:
    """No string falls back to the unknown token, which is <|endoftext|>."""
    for string in ODD:
        assert tokenizer.eos_token_id not in tokenizer(string)["input_ids"][1:-1]


def test_padding_is_end_of_text(tokenizer: CLIPTokenizer) -> None:
    ids = text.token_ids(tokenizer, ["a red ball", ""])
    assert ids.shape == (2, 77)
    assert ids[1].tolist() == [tokenizer.bos_token_id] + 76 * [tokenizer.eos_token_id]


def trainer(seed: int = 0) -> unet.Trainer:
    return unet.Trainer(tiny.network(seed), tiny.settings())


def test_four_steps_equal_two_and_two_resumed(tmp_path: Path) -> None:
    straight, first, second = trainer(), trainer(), trainer(seed=1)
    tiny.halves(straight, first, second, tmp_path / "unet.pt")
    assert second.samples == straight.samples == 16
    assert tiny.same(straight, second)


def gradients(compiled: bool) -> torch.Tensor:
    """Of one loss of 64 pictures, with respect to all parameters."""
    settings = tiny.settings()
    settings.unet.batch, settings.unet.compile = 64, compiled
    run = unet.Trainer(tiny.network(), settings)
    run.loss(tiny.RandomSource()).backward()
    return torch.cat([p.grad.flatten() for p in run.parameters if p.grad is not None])


@pytest.mark.filterwarnings("ignore")  # torch's, about itself, while it compiles
def test_fused_kernels_have_the_same_gradient() -> None:
    """Within the rounding of bf16: a part that gets none would be a distance of 1."""
    whole, fused = gradients(False), gradients(True)
    assert (whole - fused).norm() < 0.03 * whole.norm()


def test_learning_rate_warms_up_and_falls() -> None:
    run = trainer()
    assert run.rate(0.0) == pytest.approx(run.u.lr / run.u.warmup)
    run.step_number = run.u.warmup
    assert run.rate(1 - run.u.decay) == pytest.approx(run.u.lr)
    assert run.rate(0.8) == pytest.approx(run.u.lr * 0.2 / run.u.decay)


def test_clock_goes_on_where_it_stopped() -> None:
    clock = Clock.start_at(before=30.0, minutes=1.0, deadline=None)
    assert clock.progress() == pytest.approx(0.5, abs=0.05)
    assert Clock.start_at(before=90.0, minutes=1.0, deadline=None).progress() == 1.0


def test_rates_and_intervals() -> None:
    low, high = evaluate.Rate(95, 100).interval()
    assert low == pytest.approx(0.8872, abs=1e-4)
    assert high == pytest.approx(0.9836, abs=1e-4)
    assert evaluate.Rate(0, 10).interval()[0] == 0.0
    assert evaluate.Rate(10, 10).interval()[1] == 1.0


def test_refinement_begins_at_the_averages_and_keeps_a_checkpoint_of_its_own(tmp_path: Path) -> None:
    settings = tiny.settings(tmp_path)
    settings.refined.begin = settings.unet.name
    refined = stages.settings(settings, "refined")
    with pytest.raises(ValueError, match="train unet first"):
        unet.train(refined)
    first, second = (unet.Trainer(tiny.network(seed), settings) for seed in (0, 1))
    first.step(tiny.RandomSource(), 0.1)
    unet.save(settings, first, 60.0)
    begun = unet.last_state(refined)
    assert begun
    second.restore(begun)
    assert checkpoint.seconds(begun, "cpu") == 0
    assert all(torch.equal(a, b) for a, b in zip(second.parameters, first.ema, strict=True))
    unet.save(refined, second, 5.0)
    assert unet.last_state(settings)["seconds"] == 60
    assert unet.last_state(refined)["seconds"] == 5
