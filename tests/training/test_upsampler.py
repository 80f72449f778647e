"""How the upsampler is trained: crops that fit their low-resolution versions, and a run that can be interrupted."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import nn

from benchmarks.upscaling_quality import psnr
from service.engines.contract import Surroundings, Ticket
from service.engines.embedded import EmbeddedEngine
from service.engines.runtimes import OpenVino
from service.upscaling import lanczos
from tests.engines.tiny import NAME, write_repository
from training import config as configuration
from training import degradations, judge, upsampling
from training.__main__ import main
from training.degradations import crop
from training.judge import Judge
from training.losses import border_loss, perceptual_loss
from training.upsampler import Sizes, Upsampler
from training.world import draw, render

SMALL = {
    "block": 16,
    "patch": 4,
    "lowres_patch": 2,
    "thumbnail": 8,
    "width": 32,
    "heads": 2,
    "layers": 1,
    "channels": 8,
    "residuals": 1,
}
RAMP = np.stack([*np.mgrid[0:240, 0:240], np.full((240, 240), 128)], -1).astype(
    np.uint8
)  # every pixel says where it is


@pytest.mark.parametrize("seed", range(12))
def test_crops_and_their_degraded_versions_show_the_same_place(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(degradations, "EDGE", 0.0)
    sizes = Sizes(**SMALL)
    cut = crop(RAMP, lanczos.thumbnail(RAMP, 8), sizes, 5, np.random.default_rng(seed))
    assert [part.shape[0] for part in cut] == [80, 80, 28, 8]
    lowres = cut.sharp.reshape(20, 4, 20, 4, 3).mean((1, 3))
    for degraded in (cut.lowres[4:-4, 4:-4], cut.base.reshape(20, 4, 20, 4, 3).mean((1, 3))):
        np.testing.assert_allclose(np.median(degraded - lowres, (0, 1)), 0, atol=1.5)
    corner = cut.lowres[:4].mean((0, 1)) - cut.lowres[4:8].mean((0, 1))
    np.testing.assert_allclose(corner, [-16, 0, 0], atol=4), "the margin is the picture's own"
    mirrored = cut.sharp[0, 0, 1] > cut.sharp[0, -1, 1]
    assert mirrored == (cut.thumbnail[0, 0, 1] > cut.thumbnail[0, -1, 1])


def test_beyond_an_edge_the_picture_is_replicated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(degradations, "EDGE", 1.0)
    lowres = crop(RAMP, RAMP[:8, :8], Sizes(**SMALL), 5, np.random.default_rng(0)).lowres
    np.testing.assert_array_equal(lowres, np.pad(lowres[4:-4, 4:-4], ((4, 4), (4, 4), (0, 0)), "edge"))


def test_degradations_cover_what_they_name() -> None:
    flat = np.full((240, 240, 3), 120, np.uint8)
    rng = np.random.default_rng(0)
    deviations = np.array([crop(flat, flat[:8, :8], Sizes(**SMALL), 5, rng).lowres.std() for _ in range(60)])
    assert 0.3 < (deviations == 0).mean() < 0.9, "noise in some, not in all"
    assert 0.5 < deviations.max() < 7


def recipe(**numbers: Any) -> SimpleNamespace:
    config = configuration.load(upsampling.RECIPE)
    config.network = SimpleNamespace(**SMALL, factor=4, sigma_data=0.05)
    vars(config.upsampler).update({"batch": 4, "crop": 2, "compile": False, "lr": 3e-3} | numbers)
    return config


def batch(number: int) -> list[torch.Tensor]:
    rng = np.random.default_rng(number)
    smooth = np.kron(rng.integers(0, 256, (4, 12, 12, 3)), np.ones((1, 16, 16, 1))).astype(np.uint8)
    cuts = [crop(picture, picture[:8, :8], Sizes(**SMALL), 2, rng) for picture in smooth]
    return [torch.from_numpy(np.stack(parts)) for parts in zip(*cuts, strict=True)]


@pytest.mark.parametrize("progress", [0.1, 0.5, 0.8])
def test_the_loss_falls_and_a_run_resumes_where_it_stopped(progress: float, tmp_path: Path) -> None:
    config, same = recipe(), batch(0)
    trainer = upsampling.Trainer(upsampling.build(config), config)
    drafts = [p.clone() for p in trainer.net.drafter.parameters()]
    losses = [float(trainer.step(same, progress).sum()) for _ in range(100)]
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10]), losses
    kept = all(torch.equal(a, b) for a, b in zip(drafts, trainer.net.drafter.parameters(), strict=True))
    assert kept == (progress > config.upsampler.drafts)

    trainer.save(tmp_path / "upsampler.pt", seconds=12.0)
    again = upsampling.Trainer(upsampling.build(config), config)
    assert again.restore(tmp_path / "upsampler.pt") == 12.0
    for number in (1, 2):
        assert torch.equal(trainer.step(batch(number), progress), again.step(batch(number), progress))
    for ours, theirs in zip(trainer.ema, again.ema, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_the_loss_is_the_error_of_the_networks_own_output() -> None:
    """Karras et al. 2022, eq. 8: with their weight, a network that answers 0 has the loss of its target."""
    config = recipe()
    trainer = upsampling.Trainer(upsampling.build(config), config)  # its last layer is 0 at first
    parts = [part.movedim(-1, 1) / 127.5 - 1 for part in batch(3)]
    generator = torch.Generator().manual_seed(config.upsampler.seed)
    mean, deviation = config.upsampler.log_sigma
    sigma = (0.05 * (mean + deviation * torch.randn(4, generator=generator)).exp())[:, None, None, None]
    sigma = sigma.clamp(config.upsampler.sigma_min, config.upsampler.sigma_max)
    noise = torch.randn(parts[0].shape, generator=generator)
    beyond, scale = parts[0] - parts[1], (sigma**2 + 0.05**2).sqrt()
    target = (beyond - 0.05**2 / scale**2 * (beyond + sigma * noise)) * scale / (sigma * 0.05)
    found = trainer.loss(batch(3), progress=0.5)
    error = target * sigma * 0.05 / scale
    block = trainer.net.sizes.block
    rows, columns = (error.transpose(-1, axis).split(block, -1) for axis in (-2, -1))
    steps = torch.stack([second[..., 0] - first[..., -1] for first, second in (rows, columns)]).square()
    weight = (scale / (sigma * 0.05)).square()[..., 0]
    seams = config.upsampler.borders * (weight * steps.mean(0)).mean()
    torch.testing.assert_close(found, torch.stack([target.square().mean(), seams, seams * 0]), rtol=1e-3, atol=0)
    drafts = beyond.square().mean() / 0.05**2
    torch.testing.assert_close(trainer.loss(batch(3), progress=0.0)[0], drafts, rtol=1e-3, atol=0)


def test_outermost_pixels_take_their_share_of_the_refinement() -> None:
    config = recipe()
    torch.manual_seed(1)
    whole, part = Upsampler(**SMALL), Upsampler(**SMALL, edge=0.25)
    nn.init.normal_(whole.out.weight, std=0.1)
    part.load_state_dict(whole.state_dict())
    sharp, base, lowres, thumbnail = (p.movedim(-1, 1) / 127.5 - 1 for p in batch(3))
    given = sharp, torch.full((len(sharp),), config.upsampler.sigma_max), base, lowres, thumbnail
    draft, full, found = whole.draft(base, lowres), whole.picture(*given), part.picture(*given)
    side = whole.sizes.block
    inner = torch.zeros(side, side, dtype=torch.bool)
    inner[1:-1, 1:-1] = True
    inner = inner.repeat(2, 2).expand_as(found)
    torch.testing.assert_close(found[inner], full[inner], rtol=0, atol=0)
    torch.testing.assert_close(found[~inner], (0.75 * draft + 0.25 * full)[~inner])
    assert (full - draft).abs().amax() > 0.01


def test_a_seam_is_a_step_that_the_render_has_not() -> None:
    a, b = torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 8, 8)
    a += 0.7  # everywhere the same
    assert not border_loss(a, b, 4).any()
    a[1, :, :, 4:] += 0.5
    torch.testing.assert_close(border_loss(a, b, 4), torch.tensor([0.0, 0.5**2 / 2]))  # one border of two
    assert not border_loss(a, b, 8).any(), "a lone block has none"
    assert not border_loss(a, a, 4).any()


def test_eyes_see_in_turns_what_pixels_differ_in() -> None:
    torch.manual_seed(0)
    config, eyes = recipe(perceptual=3.0), [Judge().eval(), Judge().eval()]
    trainer = upsampling.Trainer(upsampling.build(config), config, eyes)
    sharp, base = (part.movedim(-1, 1) / 127.5 - 1 for part in batch(3)[:2])
    expected = [3 * perceptual_loss(eye, base, sharp) for eye in eyes]
    for trainer.step_number, turn in enumerate((0, 1, 0)):
        torch.testing.assert_close(trainer.loss(batch(3), progress=0.0)[2], expected[turn], rtol=0.02, atol=0)
    assert abs(expected[0] - expected[1]) > 0.05 * expected[0]


def test_all_eyes_see_the_same_renders_and_none_of_the_judges() -> None:
    config = configuration.load()
    ours, *theirs = (judge.seeds(config, name) for name in judge.JUDGES)
    assert set(theirs) == {theirs[0]}
    assert not set(ours) & set(theirs[0])


def test_a_reproduced_picture_is_nearly_the_small_one() -> None:
    picture = render(draw(5), 512)
    found = upsampling.published_autoencoder(configuration.load(upsampling.RECIPE))(picture)
    small = np.asarray(Image.fromarray(picture).reduce(4))
    assert found.shape == small.shape
    assert 20 < psnr(found, small) < 45, "near, and not the same"


@pytest.mark.parametrize("seed", range(4))
def test_a_small_version_that_is_there_already_is_cut_where_the_picture_is(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(degradations, "EDGE", 0.0)
    small = RAMP.reshape(60, 4, 60, 4, 3).mean((1, 3)).astype(np.uint8)
    cut = crop(RAMP, RAMP[:8, :8], Sizes(**SMALL), 5, np.random.default_rng(seed), small)
    np.testing.assert_array_equal(
        cut.lowres[4:-4, 4:-4], cut.sharp.reshape(20, 4, 20, 4, 3).mean((1, 3)).astype(np.uint8)
    )


@pytest.mark.slow
def test_the_command_renders_trains_and_publishes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upsampling, "LOG", 1)
    write_repository(tmp_path / "repository")
    text = upsampling.RECIPE.read_text()
    changes = {
        'runs = "runs/upsampler"': f'runs = "{tmp_path}"', '"model_repository"': f'"{tmp_path / "repository"}"',
        "[1024, 1024, 2048]": "[64]", "chunks = 14": "chunks = 1", "chunk = 20": "chunk = 2",
        "reproduced = 0.3": "reproduced = 0.0", "channels = 64": "channels = 8", "residuals = 3": "residuals = 1",
        "compile = true": "compile = false", "perceptual = 24.0": "perceptual = 0.0",
        "block = 128": "block = 16", "patch = 8\nlowres_patch = 8\nthumbnail = 32\nwidth = 256\nheads = 4\nlayers = 4":
        "patch = 4\nlowres_patch = 2\nthumbnail = 8\nwidth = 32\nheads = 2\nlayers = 1",
        "alone = 0.4": "alone = 0.5", "batch = 8": "batch = 2", "minutes = 90": "minutes = 0.01",
    }  # fmt: skip
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new, 1)
    (tmp_path / "recipe.toml").write_text(text)
    for further in ([], ["--into", NAME]):
        done = CliRunner().invoke(main, ["upsampler", "--recipe", str(tmp_path / "recipe.toml"), *further])
        assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in (tmp_path / "upsampler.jsonl").read_text().splitlines()]
    assert rows
    assert all(np.isfinite(row["loss"]).all() for row in rows)

    config = configuration.load(tmp_path / "recipe.toml")
    net = upsampling.published(config, NAME).eval().requires_grad_(False)
    for (name, theirs), ours in zip(net.named_parameters(), upsampling.load_ema(config).parameters(), strict=True):
        share = config.upsampler.share if name.startswith("out.") else 1
        assert torch.equal((ours * share).half().float(), theirs), "training can go on from what was published"
    with pytest.raises(ValueError, match="nobody has no upsampler"):
        upsampling.published(config, "nobody")
    engine = EmbeddedEngine(tmp_path / "repository", OpenVino("fp32", 2, tmp_path / "cache"))
    facts = engine.models[NAME].upsampler
    assert facts is not None
    assert (facts.block, facts.factor, facts.thumbnail, facts.sigma_max) == (16, 4, 8, 4.0)
    rng = np.random.default_rng(0)
    x, base = rng.uniform(-1, 1, (2, 1, 3, 16, 16)).astype(np.float32)
    lowres, small = (rng.uniform(-1, 1, (3, side, side)).astype(np.float32) for side in (12, 8))
    cache = rng.standard_normal(net.sizes.cache).astype(np.float16)
    around = Surroundings(base[0], lowres, small, (cache, None, None))
    x0, made = engine.upsample(NAME, x, np.full(1, 0.3, np.float32), [around], Ticket())
    engine.close()
    _check_against_torch(net, x, base, lowres, small, cache, x0, made)


def _check_against_torch(net: Upsampler, *arrays: np.ndarray) -> None:
    x, base, lowres, small, cache, x0, made = (torch.from_numpy(array) for array in arrays)
    for parameter in net.parameters():
        parameter.copy_(parameter.half())
    present, nothing = torch.tensor([[1.0, 0, 0]]), torch.zeros(1, *net.sizes.cache)
    around = (base, lowres[None], small[None], present, cache[None].float(), nothing, nothing)
    expected = net(x, torch.tensor([0.3]), *around)
    assert (x0.dtype, made.dtype) == (torch.float32, torch.float16)
    torch.testing.assert_close(x0, expected[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(made.float(), expected[1], rtol=5e-4, atol=1e-5)
