"""From one device to another: pieces, averaged weights, the published model."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel

from tests.training import tiny
from training import checkpoint, config, data, features, judge, lease, pack, pieces, published, text, unet
from training.autoencoder import Pca
from training.judge import Judge
from training.world import captions, draw


def trained(settings: SimpleNamespace, steps: int, device: str = "cpu") -> unet.Trainer:
    trainer = unet.Trainer(tiny.network().to(device), settings)
    for _ in range(steps):
        trainer.step(tiny.RandomSource(), 0.1)
    return trainer


@pytest.mark.parametrize("size", [0, 1, 999, 1000, 1001, 3000])
def test_pieces_make_the_file_again(tmp_path: Path, size: int) -> None:
    content = np.random.default_rng(size).bytes(size)
    (tmp_path / "file").write_bytes(content)
    pieces.split(tmp_path / "file", tmp_path / "pieces", 1000)
    parts = [p for p in (tmp_path / "pieces").iterdir() if p.name != pieces.MANIFEST]
    assert len(parts) == -(-size // 1000)
    assert all(p.stat().st_size <= 1000 for p in parts)
    assert pieces.join(tmp_path / "pieces", tmp_path / "again").read_bytes() == content


def damage(folder: Path) -> None:
    part = folder / "file.001"
    part.write_bytes(b"x" + part.read_bytes()[1:])


def shorten(folder: Path) -> None:
    (folder / "file.001").write_bytes((folder / "file.001").read_bytes()[:-1])


def lose(folder: Path) -> None:
    (folder / "file.001").unlink()


def forget(folder: Path) -> None:
    (folder / pieces.MANIFEST).unlink()


def garble(folder: Path) -> None:
    (folder / pieces.MANIFEST).write_text('{"pieces": 3}')


def omit(folder: Path) -> None:
    manifest = json.loads((folder / pieces.MANIFEST).read_text())
    (folder / pieces.MANIFEST).write_text(json.dumps(manifest | {"pieces": manifest["pieces"][:1]}))


@pytest.mark.parametrize(
    ("harm", "word"),
    [(damage, "file.001 is damaged"), (shorten, "file.001 is damaged"), (lose, "file.001 is missing"),
     (forget, "manifest.json is missing"), (garble, "not a manifest"), (omit, "make 1000 bytes")],
)  # fmt: skip
def test_harmed_pieces_are_refused_by_name(tmp_path: Path, harm: object, word: str) -> None:
    (tmp_path / "file").write_bytes(np.random.default_rng(0).bytes(2500))
    pieces.split(tmp_path / "file", tmp_path / "pieces", 1000)
    harm(tmp_path / "pieces")  # type: ignore[operator]
    with pytest.raises(ValueError, match=word):
        pieces.join(tmp_path / "pieces", tmp_path / "again")
    assert not list(tmp_path.glob("again*"))


def test_pieces_do_not_mix_with_others(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(ValueError, match="is not empty"):
        pieces.split(tmp_path / "file", tmp_path, 1000)


@pytest.mark.parametrize("whole", [True, False])
def test_a_run_survives_packing(tmp_path: Path, whole: bool) -> None:
    here, there = tiny.settings(tmp_path / "here"), tiny.settings(tmp_path / "there")
    here.pack.limit = 20_000
    trainer = trained(here, 3)
    unet.save(here, trainer, 9.0)
    (here.paths.runs / "text_encoder").mkdir()
    (here.paths.runs / "text_encoder" / "config.json").write_text("{}")
    manifest = pack.pack(here, tmp_path / "pieces", whole)
    assert all(p.stat().st_size <= 20_000 for p in manifest.parent.iterdir() if p != manifest)
    assert pack.unpack(there, manifest.parent) == ["text_encoder/config.json", "unet.pt"]
    found, expected = (checkpoint.load(unet.checkpoint_path(s)) for s in (there, here))
    assert ("optimizer" in found) == whole
    for a, b in zip(found["ema"], expected["ema"], strict=True):
        assert torch.equal(a, b if whole else b.half())


def test_averaged_weights_alone_start_a_new_optimiser(tmp_path: Path) -> None:
    settings = tiny.settings(tmp_path)
    trainer = trained(settings, 3)
    fresh = unet.Trainer(unet.build(settings), settings)
    fresh.restore(checkpoint.weights(trainer.state() | {"seconds": 9.0, "device": "cpu"}))
    for p, e in zip(fresh.parameters, trainer.ema, strict=True):
        assert torch.equal(p, e.half().float())
    assert (fresh.step_number, fresh.samples) == (3, 12)
    assert fresh.rate(0.0) == settings.unet.lr / settings.unet.warmup
    assert not any(part.state for part in fresh.optimizer.parts)


def test_the_schedule_goes_on_on_the_same_device_only() -> None:
    state = {"optimizer": {}, "seconds": 9.0, "device": "cpu"}
    assert checkpoint.seconds(state, "cpu") == 9.0
    assert checkpoint.seconds(state, "cuda") == 0.0
    assert checkpoint.seconds({"ema": []}, "cpu") == 0.0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_goes_on_from_a_cpu_state_and_back(tmp_path: Path) -> None:
    settings = tiny.settings(tmp_path)
    first = trained(settings, 2)
    second = trained(settings, 0, "cuda")
    second.restore(first.state())
    assert all(torch.equal(a, b.cpu()) for a, b in zip(first.parameters, second.parameters, strict=True))
    second.step(tiny.RandomSource(), 0.1)
    settings.device = "cuda"
    unet.save(settings, second, 1.0)
    third = trained(settings, 0)
    third.restore(checkpoint.load(unet.checkpoint_path(settings)))
    assert all(torch.equal(a.cpu(), b) for a, b in zip(second.parameters, third.parameters, strict=True))
    third.step(tiny.RandomSource(), 0.1)
    assert third.step_number == 4


def test_resident_features_are_the_mapped_ones(tmp_path: Path) -> None:
    settings = config.load()
    settings.paths.runs, settings.world.chunk = tmp_path, 5
    rng, folder = np.random.default_rng(0), features.folder(settings)
    data.save_atomically(folder / "empty.npy", rng.standard_normal((7, 3)).astype(np.float16))
    for chunk in range(2):
        latents, texts = rng.standard_normal((5, 2, 4, 2, 2)), rng.standard_normal((5, settings.text.per_picture, 7, 3))
        data.save_atomically(folder / f"text-{chunk:04d}.npy", texts.astype(np.float16))
        data.save_atomically(folder / f"latents-{chunk:04d}.npy", latents.astype(np.float16))
    batches = [source(settings).batch(np.random.default_rng(1), 32, 0.5) for source in
               (features.Features, features.Resident)]  # fmt: skip
    for a, b in zip(*batches, strict=True):
        assert torch.equal(a, b)


def test_training_goes_on_from_the_published_model(tmp_path: Path) -> None:
    settings = config.load()
    settings.paths.runs = tmp_path
    filled = published.start(settings)
    assert {"encoder_pca.npz", "tokenizer", "text_encoder", "unet.pt"} <= set(filled)
    assert published.start(settings) == []
    tokenizer, encoder = text.load(tmp_path)
    pipeline = published.rebuild(settings.paths.repository, settings.paths.model.name)
    words = [c for seed in range(20) for c in captions(draw(seed), 2)]
    ids = text.token_ids(tokenizer, words)
    theirs = pipeline.tokenizer(words, padding="max_length", truncation=True, max_length=77, return_tensors="pt")
    assert torch.equal(ids, theirs["input_ids"])
    with torch.no_grad():
        assert torch.equal(encoder(ids).last_hidden_state, pipeline.text_encoder(ids).last_hidden_state)
    net: UNet2DConditionModel = unet.load_ema(settings)
    for a, b in zip(net.parameters(), pipeline.unet.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_turned_network_says_of_turned_latents_what_it_said() -> None:
    net, turned = tiny.network(), tiny.network()
    generator = torch.Generator().manual_seed(3)
    rotation, _ = torch.linalg.qr(torch.randn(4, 4, generator=generator))
    published.turn(turned, rotation)
    y, context = (torch.randn(shape, generator=generator) for shape in ((2, 4, 8, 8), (2, 5, 16)))

    def turn(latents: torch.Tensor) -> torch.Tensor:
        return torch.einsum("nyhw,yz->nzhw", latents, rotation)

    with torch.no_grad():
        torch.testing.assert_close(turn(turned(y, 7, context).sample), net(turn(y), 7, context).sample)


def test_the_rotation_between_two_bases_of_one_space_is_found() -> None:
    rng = np.random.default_rng(0)
    basis, _ = np.linalg.qr(rng.standard_normal((12, 4)))
    turned, _ = np.linalg.qr(rng.standard_normal((4, 4)))
    ours = Pca(np.zeros(12), basis @ turned, turned.T @ basis.T, 2.0, 2)
    theirs = Pca(np.zeros(12), basis, basis.T, 1.0, 2)
    np.testing.assert_allclose(published.rotation(ours, theirs), turned.T, atol=1e-6)


def test_another_network_than_the_published_one_is_refused(tmp_path: Path) -> None:
    settings = config.load()
    settings.paths.runs, settings.unet.blocks = tmp_path, [64, 128, 192]
    with pytest.raises(ValueError, match="unet: the published network is not the configured one"):
        published.start(settings)


def test_cuda_replaces_numbers_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "small.toml"
    file.write_text('[paths]\nruns = "r"\n[unet]\nbatch = 32\nlr = 1\n[cuda.unet]\nbatch = 1024\n')
    on_cpu, on_cuda = config.load(file), config.load(file, "cuda")
    assert (on_cpu.unet.batch, on_cuda.unet.batch) == (32, 1024)
    assert (on_cpu.unet.lr, on_cuda.unet.lr) == (1, 1)
    file.write_text('[paths]\nruns = "r"\n[unet]\nbatch = 32\n[cuda.unet]\nbach = 1024\n')
    with pytest.raises(ValueError, match=r"\[cuda.unet\] replaces bach"):
        config.load(file)


@pytest.mark.slow
def test_a_lease_renders_trains_and_hands_back(tmp_path: Path) -> None:
    settings = tiny.settings(tmp_path / "here")
    settings.world.size, settings.world.chunk, settings.world.pictures, settings.world.workers = 64, 4, 8, 1
    a, settings.text.layers, settings.unet.processes = settings.autoencoder, 1, 1
    a.pca_pictures, a.channels, a.crop, a.batch, a.held_out = 4, 4, 2, 2, 1
    a.blocks, a.layers = [0, 0, 8, 8, 8], [0, 0, 0, 0, 0]
    settings.text.heads, settings.text.vocabulary = 2, 600
    settings.lease = SimpleNamespace(minutes=0.0, render=0.0, decoder=0.001, pack=0.0)
    tokenizer = text.train_tokenizer([c for seed in range(9) for c in captions(draw(seed), 2)], 600, 77)
    tokenizer.save_pretrained(settings.paths.runs / "tokenizer")
    text.build_encoder(settings, tokenizer).save_pretrained(settings.paths.runs / "text_encoder")
    torch.save(Judge().state_dict(), judge.path(settings, "eye"))
    lease.run(settings, tmp_path / "pieces")
    there = tiny.settings(tmp_path / "there")
    assert {"encoder_pca.npz", "decoder.pt", "unet.pt"} <= set(pack.unpack(there, tmp_path / "pieces"))
    assert features.encoded(settings) == data.finished(settings) != []
    for a, b in zip(unet.load_ema(settings).parameters(), unet.load_ema(there).parameters(), strict=True):
        assert torch.equal(a.half().float(), b)


def test_a_lease_without_a_text_encoder_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no text encoder"):
        lease.run(tiny.settings(tmp_path), tmp_path / "pieces")
