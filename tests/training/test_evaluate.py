"""The judge and the comparison of presets: one command on the closed-form engine, and equalities of its parts."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from training import config, evaluate, judge, text
from training.__main__ import main
from training.measures import Estimate
from training.world import draw

SCENES = [draw(seed) for seed in range(40)]


@pytest.fixture(scope="module")
def referee() -> judge.Judge:
    torch.manual_seed(0)
    return judge.Judge().eval()


def test_the_heads_read_the_features(referee: judge.Judge) -> None:
    pixels = torch.randn(3, 3, 128, 128, generator=torch.Generator().manual_seed(1))
    features, found = judge.examine(referee, pixels)
    with torch.no_grad():
        for name, logits in referee(pixels).items():
            torch.testing.assert_close(referee.heads(features)[name], logits)
            assert torch.equal(found[name], logits.argmax(1))


def test_accuracy_counts_what_rates_count() -> None:
    """Object kind and colour where there is an object, scene and time always: the same hits, picture by picture."""
    target = text.labels(SCENES)
    generator = torch.Generator().manual_seed(2)
    guess = torch.rand(len(SCENES), 2, generator=generator) < 0.5
    found = {name: torch.where(guess, values[:, None], values[:, None] + 1) for name, values in target.items()}
    attributes = np.array([4 if scene.solids else 2 for scene in SCENES])
    shares = evaluate.accuracy(found, target)
    rates = evaluate.rates({name: values[:, 1] for name, values in found.items()}, target)
    assert (shares[:, 1] * attributes).sum() == pytest.approx(sum(rate.hits for rate in rates.values()))
    assert sum(rate.total for rate in rates.values()) == attributes.sum()
    np.testing.assert_array_equal(shares, guess.double().numpy())


def test_copies_of_a_render_differ_and_the_first_is_the_scene() -> None:
    first, second, third = evaluate.renders(SCENES[:3], range(3), 32)
    np.testing.assert_array_equal(first, next(iter(evaluate.renders(SCENES[:3], [0], 32))))
    assert not any(
        np.array_equal(a, b) for pair in ((first, second), (second, third)) for a, b in zip(*pair, strict=True)
    )


def test_the_front_leaves_the_renders_out() -> None:
    def row(accuracy: float, diversity: float, frechet: float) -> dict[str, Estimate]:
        numbers = {"accuracy": accuracy, "diversity": diversity, "frechet": frechet}
        return {name: Estimate(value, value, value) for name, value in numbers.items()}

    rows = {evaluate.RENDERS: row(1, 1, 0), "a": row(0.9, 0.5, 3), "b": row(0.9, 0.4, 4), "c": row(0.5, 0.9, 9)}
    assert evaluate.front(rows) == ["a", "c"]


def command(runs: Path, *arguments: str) -> Result:
    """``python -m training evaluate`` with an untrained judge and the closed-form model."""
    torch.manual_seed(0)
    torch.save(judge.Judge().state_dict(), runs / "judge.pt")
    lines = config.DEFAULT.read_text().replace('"runs/postcard"', f'"{runs}"').replace('"build/postcard"', '"gaussian"')
    (runs / "tiny.toml").write_text(lines)
    options = ["--config", str(runs / "tiny.toml"), "evaluate", *arguments]
    return CliRunner().invoke(main, options, env={"DARKROOM_ENGINE": "gaussian"})


def test_one_command_compares_presets(tmp_path: Path) -> None:
    result = command(tmp_path, "--preset", "fast", "--preset", "ays", "--prompts", "4")
    assert result.exit_code == 0, result.output
    rows = json.loads((tmp_path / "evaluation.json").read_text())
    assert list(rows) == ["renders", "fast", "ays"]
    for name in ("fast", "ays"):
        assert set(rows[name]["measures"]) == {"accuracy", "frechet", "precision", "recall", "diversity"}
        assert rows[name]["attributes"]["scene"]["total"] == 4
        assert f"{rows[name]['measures']['diversity']['mean']:.3f} [" in result.output
    assert (tmp_path / "pareto.png").stat().st_size > 0


def test_a_preset_for_other_models_is_refused_before_the_work(tmp_path: Path) -> None:
    result = command(tmp_path, "--preset", "sd3", "--prompts", "4")
    assert result.exit_code == 1
    assert "sd3 is not for gaussian" in result.output
    assert not (tmp_path / "evaluation.json").exists()
