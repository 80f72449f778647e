"""Quality tuning: the optimum is kept, resumption changes nothing, the judge of preference counts rightly."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from export.weights import rebuild
from service.engines.contract import Ticket
from service.engines.factory import open_engine
from service.pipeline import generate
from service.recipe import Overrides, load_presets, resolve
from service.settings import Settings
from tests.conftest import Exported
from tests.training import tiny
from training import preference, sampling, stages, text, tuning, unet


def trainer(settings: SimpleNamespace) -> unet.Trainer:
    return unet.Trainer(tiny.network(), stages.settings(settings, "tuning"))


def scripted(*preferred: float) -> tuple[Callable[[list[Tensor]], dict[str, float]], list[list[Tensor]]]:
    """A validation that says these numbers one by one, and the weights that it was shown."""
    answers, shown = iter(preferred), list[list[Tensor]]()

    def validate(weights: list[Tensor]) -> dict[str, float]:
        shown.append([w.clone() for w in weights])
        return {"preferred": next(answers), "accuracy": 0.0}

    return validate, shown


@pytest.fixture
def settings(tmp_path: Path) -> SimpleNamespace:
    s = tiny.settings(tmp_path)
    s.tuning.every, s.tuning.patience, s.tuning.max_steps = 2, 2, 100
    return s


def test_tuning_stops_behind_the_optimum_and_keeps_its_weights(settings: SimpleNamespace) -> None:
    validate, shown = scripted(0.6, 0.8, 0.7, 0.75, 0.9)
    history = tuning.search(settings, "tuned", trainer(settings), tiny.RandomSource(), validate)
    assert [row["step"] for row in history] == [0, 2, 4, 6, 8]
    kept = stages.load(settings, "tuned").parameters()
    assert all(torch.equal(a, b) for a, b in zip(kept, shown[1], strict=True))
    assert not torch.equal(shown[1][0], shown[3][0])


def test_where_nothing_helps_the_pretrained_weights_stay(settings: SimpleNamespace) -> None:
    tuning.search(settings, "tuned", trainer(settings), tiny.RandomSource(), scripted(0.4, 0.45)[0])
    kept, pretrained = stages.load(settings, "tuned").parameters(), tiny.network().parameters()
    assert all(torch.equal(a, b) for a, b in zip(kept, pretrained, strict=True))


def test_a_resumed_search_ends_like_one_that_was_not_interrupted(settings: SimpleNamespace) -> None:
    whole = trainer(settings)
    history = tuning.search(settings, "whole", whole, tiny.RandomSource(), scripted(0.6, 0.8, 0.7, 0.75)[0])
    with pytest.raises(StopIteration):  # interrupted in the third measurement
        tuning.search(settings, "parts", trainer(settings), tiny.RandomSource(), scripted(0.6, 0.8)[0])
    resumed = trainer(settings)
    assert tuning.search(settings, "parts", resumed, tiny.RandomSource(), scripted(0.7, 0.75)[0]) == history
    assert tiny.same(whole, resumed)
    pairs = zip(*(stages.load(settings, name).parameters() for name in ("whole", "parts")), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_measurement_that_costs_accuracy_is_no_optimum() -> None:
    rows = [{"preferred": p, "accuracy": a} for p, a in ((0.5, 0.0), (0.7, -0.01), (0.9, -0.05), (0.8, -0.02))]
    assert tuning.optimum(rows, tolerance=0.02) == 3
    assert tuning.optimum(rows, tolerance=0.0) == 0


def test_the_noise_offset_moves_whole_channels(settings: SimpleNamespace) -> None:
    """At t = 0 and x0 = 0 the network sees sigma_0 times the noise: channel means vary by offset and 1/64 pixels."""
    run, seen = trainer(settings), list[Tensor]()
    run.u.power, run.u.batch = 1e6, 256
    alphas = run.alphas

    def network(x: Tensor, _t: Tensor, _context: Tensor) -> SimpleNamespace:
        seen.append(x / (1 - alphas[0]).sqrt())
        return SimpleNamespace(sample=torch.zeros_like(x))

    source = SimpleNamespace(batch=lambda _rng, size, _dropout: (torch.zeros(size, 4, 8, 8), torch.zeros(size, 5, 16)))
    for run.u.noise_offset in (0.0, 0.1, 0.5):
        run.forward = network
        run.loss(source)
    spread = [float(x.mean((2, 3)).var()) for x in seen]
    assert spread == pytest.approx([1 / 64, 1 / 64 + 0.01, 1 / 64 + 0.25], rel=0.1)


def test_a_batch_holds_the_captions_of_its_pictures() -> None:
    """Picture i is all i, its captions all i and 100 + i, and "" is -1."""
    rows = torch.arange(6.0)
    latents = rows[:, None, None, None].expand(6, 4, 8, 8)
    texts = torch.stack([rows, 100 + rows], 1)[:, :, None, None].expand(6, 2, 5, 16)
    source = tuning.Chosen(latents, texts, torch.full((5, 16), -1.0))
    x, captions = source.batch(np.random.default_rng(0), 400, 0.25)
    said = captions[:, 0, 0]
    assert torch.equal(captions, said[:, None, None].expand(400, 5, 16))
    told = said >= 0
    assert torch.equal(said[told] % 100, x[told, 0, 0, 0])
    assert float((~told).float().mean()) == pytest.approx(0.25, abs=0.06)
    assert set(x[:, 0, 0, 0].tolist()) == set(range(6))
    assert (said[told] >= 100).any()
    assert (said[told] < 100).any()


def test_verdicts_count_pairs() -> None:
    verdict = preference.verdict(torch.tensor([1.0, 2.0, 3.0, 0.0]), torch.tensor([0.0, 1.0, 3.0, 5.0]))
    assert (verdict.wins, verdict.losses, verdict.ties) == (2, 1, 1)
    assert str(preference.Verdict(70, 30, 0)).startswith("0.700 [0.600, 0.788] of 100")  # Clopper & Pearson 1934


def test_the_judge_learns_which_pictures_are_better() -> None:
    """Noise of two strengths on random pictures; the held-out ones are ordered without an error."""
    generator = torch.Generator().manual_seed(0)
    content = torch.rand(96, 1, 3, 4, 4, generator=generator).repeat_interleave(8, 3).repeat_interleave(8, 4)
    strength = torch.tensor([0.05, 0.5])[:, None, None, None]
    views = content * 2 - 1 + strength * torch.randn(96, 2, 3, 32, 32, generator=generator)
    net = preference.fit(views[None, :64], steps=40, batch=16, rate=4e-3, seed=0)
    with torch.no_grad():
        better, worse = net(views[64:].flatten(0, 1)).unflatten(0, (-1, 2)).unbind(1)
    assert (better > worse).all()


@pytest.mark.parametrize(
    "fields",
    [{}, {"sampler": "flash", "num_inference_steps": 3, "guidance_scale": 1.0}, {"sampler": "dpmpp_2m_sde"}],
)
def test_pictures_are_the_ones_that_are_served(exported: Exported, fields: dict[str, object], tmp_path: Path) -> None:
    name, factor = exported.description.name, exported.description.latent.factor
    local = {"model_repository": exported.repository, "cache_dir": tmp_path, "precision": "fp32"}
    engine = open_engine(Settings(default_model=name, **local))
    prompts, seeds = ["a red ball", "snow at night"], [3, 8]
    served = [
        generate(
            engine,
            resolve(Overrides(prompt=p, seed=s, **fields), load_presets(), engine.models, "embedded", "fp32"),
            Ticket(),
        ).pixels
        for p, s in zip(prompts, seeds, strict=True)
    ]
    engine.close()
    pipe, s = rebuild(exported.repository, name), tiny.settings()
    s.world.size, s.autoencoder.patch = exported.description.sizes[0][0], factor
    rows = [text.encode(pipe.tokenizer, pipe.text_encoder, texts) for texts in (prompts, [""] * 2)]
    latents = sampling.develop(
        pipe.unet, sampling.recipe(s, **fields), sampling.description(s), sampling.Noise(s, seeds),
        cond=rows[0], uncond=rows[1],
    )  # fmt: skip
    difference = np.stack(served).astype(int) - sampling.to_pixels(pipe.vae, latents)
    assert np.abs(difference).max() <= 1
    assert np.std(served) > 1


def test_a_recipe_that_looks_at_whole_pictures_is_refused() -> None:
    with pytest.raises(ValueError, match="whole picture"):
        sampling.recipe(tiny.settings(), guidance_method="apg")
