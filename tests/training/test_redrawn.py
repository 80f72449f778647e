"""The decoder's second stage: redrawn latents belong to the pixels beside them, and training goes on from the first."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.training import tiny
from training import autoencoder, checkpoint, data, decoder, features, redrawn


@pytest.fixture(scope="module")
def pictures() -> Any:
    return data.render_seeds(range(8), 128)


@pytest.fixture
def run(tmp_path: Path, pictures: Any) -> SimpleNamespace:
    """A run of eight encoded pictures with a random UNet."""
    s = tiny.settings(tmp_path)
    s.world.chunk = s.world.pictures = 8
    a, r = s.autoencoder, s.redrawn
    a.crop, a.batch, a.blocks, a.layers, a.perceptual, a.adversarial = 2, 4, [0, 8, 8, 8, 16], [0, 0, 1, 1, 1], 0.0, 0.0
    r.pictures, r.draws, r.share, r.minutes, r.timesteps = 100, 3, 1.0, 0.0, [1, 1]
    data.save_atomically(data.chunk_path(s, 0), pictures)
    data.save_atomically(tmp_path / "held-out.npy", pictures[: a.held_out])
    pca, rng = autoencoder.pca(s), np.random.default_rng(0)
    latents = np.stack([pca.encode(view) for view in (pictures, pictures[:, :, ::-1])], 1)
    data.save_atomically(features.folder(s) / "latents-0000.npy", latents.astype(np.float16))
    texts = rng.standard_normal((8, 2, 5, 16))
    data.save_atomically(features.folder(s) / "text-0000.npy", texts.astype(np.float16))
    data.save_atomically(features.folder(s) / "empty.npy", texts[0, 0].astype(np.float16))
    checkpoint.save(tmp_path / "unet.pt", {"ema": list(tiny.network().parameters())})
    return s


def test_what_is_redrawn_from_the_last_moment_is_hardly_changed(run: SimpleNamespace) -> None:
    made = redrawn.make(run)
    sharp = data.sharp_rows(run, [0])
    assert sorted(zip(made.chunks.tolist(), made.rows.tolist(), strict=True)) == sharp
    known = np.load(features.folder(run) / "latents-0000.npy")[made.rows, made.views]
    assert 0 < np.abs(made.latents - known).max() < 0.3
    np.testing.assert_array_equal(redrawn.load(run).latents, made.latents)
    run.redrawn.timesteps = [900, 900]
    assert np.abs(redrawn.make(run).latents - known).max() > 0.5


def test_pixels_are_those_of_the_latents(run: SimpleNamespace) -> None:
    chosen = redrawn._choose(run, np.random.default_rng(3))
    assert set(chosen.views.tolist()) == {0, 1}
    latents, pixels = redrawn.Crops(run, chosen).batch(np.random.default_rng(4))
    again = autoencoder.Encoder(autoencoder.pca(run))(pixels)
    torch.testing.assert_close(latents, again, atol=2e-2, rtol=0)  # half precision


def test_weights_go_on_and_the_schedule_starts_anew(run: SimpleNamespace) -> None:
    run.autoencoder.minutes = 0.0
    first = decoder.Trainer(run)
    for _ in range(3):
        first.step(decoder.Crops(run), 0.5)
    decoder.save(run, first, 77.0)
    redrawn.train(run)
    state = checkpoint.load(decoder.checkpoint_path(run))
    assert state["kind"] == "redrawn"
    assert state["seconds"] < 77
    assert state["step"] == state["since"] == 3
    assert all(torch.equal(a, b) for a, b in zip(state["ema"], first.ema, strict=True))
    run.redrawn.minutes = 0.02
    redrawn.train(run)
    assert checkpoint.load(decoder.checkpoint_path(run))["step"] > 3
