"""The discriminator begins as the UNet's way down, and what it learns and teaches has the right sign."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.training import tiny
from training import stages, student, unet
from training.discriminator import Adversary, Discriminator

ALPHAS = unet.scheduler().alphas_cumprod


def batch(count: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 4, 8, 8, generator=generator), torch.randn(count, 5, 16, generator=generator)


def test_it_begins_with_the_features_of_the_unet() -> None:
    net, seen = tiny.network().eval(), dict[str, Tensor]()
    critic = Discriminator(net).eval()

    def remember(name: str) -> Any:
        return lambda _module, _given, made: seen.__setitem__(name, made[0] if isinstance(made, tuple) else made)

    last = [block.attentions[-1] if hasattr(block, "attentions") else block.resnets[-1] for block in net.down_blocks]
    for level, layer in enumerate(last):
        layer.register_forward_hook(remember(f"unet {level}"))
    for level, head in enumerate(critic.heads):
        head.register_forward_pre_hook(
            lambda _module, given, level=level: seen.__setitem__(f"critic {level}", given[0])
        )
    x, context = batch()
    with torch.no_grad():
        net(x, torch.full((6,), 300), context)
        scores = critic(x, torch.full((6,), 300), context)
    assert scores.shape == (6, 8 * 8 + 4 * 4)
    for level in range(2):
        torch.testing.assert_close(seen[f"critic {level}"], seen[f"unet {level}"])


def test_it_learns_to_tell_pictures_from_lies_and_pushes_lies_towards_pictures() -> None:
    adversary, generator = Adversary(tiny.network(), ALPHAS, 3e-3, (20, 200)), torch.Generator().manual_seed(0)
    noise, context = batch()
    real, fake = 0.1 * noise + 1, 0.1 * noise - 1
    for _ in range(40):
        loss = adversary.learn(real, fake, context, generator)
    assert loss < 0.3  # it begins at 1
    same = [torch.Generator().manual_seed(5) for _ in range(3)]
    moved = fake - 100 * adversary.push(fake, context, same[0])
    with torch.no_grad():
        before, after = (adversary.scores(x, context, g).mean() for x, g in zip((fake, moved), same[1:], strict=True))
    assert after > before


def test_the_push_is_the_gradient_of_the_mean_score() -> None:
    adversary = Adversary(tiny.network().double(), ALPHAS.double(), 1e-3, (20, 200))
    x0, context = (part.double() for part in batch(2))
    push = adversary.push(x0, context, torch.Generator().manual_seed(3))
    direction = torch.randn(x0.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)

    def score(x: Tensor) -> Tensor:
        with torch.no_grad():
            return adversary.scores(x, context, torch.Generator().manual_seed(3)).mean()

    slope = (score(x0 + 1e-5 * direction) - score(x0 - 1e-5 * direction)) / 2e-5
    torch.testing.assert_close(-(push * direction).sum(), slope, rtol=1e-5, atol=1e-9)


def trainer(adversarial: float, *, discriminator: bool = True) -> student.Student:
    settings = tiny.settings()
    settings.student.adversarial = adversarial
    objective = student.objective(settings, discriminator=discriminator)
    merged = stages.settings(settings, "student")
    return student.Student(tiny.network(), tiny.network(5), torch.zeros(5, 16), merged, objective)


def test_a_push_of_no_share_is_no_discriminator() -> None:
    without, nothing, some = trainer(0.5, discriminator=False), trainer(0.0), trainer(0.5)
    for one in (without, nothing, some):
        for _ in range(2):
            one.step(tiny.RandomSource(), 0.1)
    assert tiny.same(without, nothing)
    assert not tiny.same(without, some)


def test_the_discriminator_is_resumed_too(tmp_path: Path) -> None:
    straight, first, second = trainer(0.5), trainer(0.5), trainer(0.5)
    tiny.halves(straight, first, second, tmp_path / "student.pt")
    assert straight.adversary
    assert second.adversary
    for a, b in zip(straight.adversary.net.parameters(), second.adversary.net.parameters(), strict=True):
        assert torch.equal(a, b)
