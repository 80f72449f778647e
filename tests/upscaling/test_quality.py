"""The measures of enlarged pictures, where they are known, and the whole command on a network of random weights."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from benchmarks.upscaling_quality import SEED, borders, detail, distance, main, psnr
from tests.engines.tiny import NAME
from training.judge import Judge
from training.world import draw, render


def test_psnr_of_a_constant_error() -> None:
    picture = np.full((8, 8, 3), 100, np.uint8)
    assert psnr(picture + np.uint8(5), picture) == pytest.approx(20 * np.log10(255 / 5))


def test_borders_of_a_ramp_and_of_one_with_seams() -> None:
    ramp = np.add.outer(np.arange(64), np.arange(48))[..., None].repeat(3, 2).astype(np.uint8)
    assert borders(ramp, 16, 4) == 1
    seams = ramp + 2 * np.add.outer(np.arange(64) // 16, np.arange(48) // 16)[..., None].astype(np.uint8)
    assert borders(seams, 16, 4) == 3
    assert borders(seams, 8, 4) == pytest.approx((5 * 3 + 7) / 12)  # every second border of 8 is one of 16
    steep = ramp + np.add.outer(np.arange(64) // 4, np.arange(48) // 4)[..., None].astype(np.uint8)
    assert borders(steep, 16, 4) == 1, "steeper between all low-resolution pixels, not at borders"


def test_distance_is_none_to_itself_and_grows_with_blur() -> None:
    torch.manual_seed(0)
    referee, picture = Judge().eval(), render(draw(SEED), 128)
    blurred = [np.asarray(Image.fromarray(picture).reduce(f).resize((128, 128))) for f in (2, 8)]
    same, little, much = (distance(referee, other, picture, 64) for other in (picture, *blurred))
    assert same == 0 < little < much


def test_detail_is_found() -> None:
    picture = np.zeros((400, 500, 3), np.uint8)
    picture[200:240:2, 310:350] = 255
    row, column = detail(picture)
    assert row <= 200 <= row + 121
    assert column <= 310 <= column + 121


def test_the_command(repository: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save(Judge().state_dict(), tmp_path / "judge.pt")
    toml = Path("training/postcard.toml").read_text()
    for name, value in (("runs", tmp_path), ("repository", repository)):
        toml = re.sub(rf'^{name} = ".*"', f'{name} = "{value}"', toml, flags=re.M)
    (tmp_path / "small.toml").write_text(toml)
    options = ["--pictures", "2", "--side", "192", "--sheet", str(tmp_path / "sheet.png"), "--sigmas", "2 0.1 0"]
    result = CliRunner().invoke(
        main, ["--config", str(tmp_path / "small.toml"), "--model", NAME, *options], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    sharp = [render(draw(SEED + i), 192) for i in range(2)]
    pillow = [Image.fromarray(s).resize((48, 48), Image.Resampling.BOX).resize((192, 192), 1) for s in sharp]
    expected = np.mean([psnr(np.asarray(p), s) for p, s in zip(pillow, sharp, strict=True)])
    first = re.search(r"Lanczos: PSNR, dB +(\S+)", result.output)
    assert first
    assert float(first[1]) == pytest.approx(expected, abs=6e-4)
    assert len(re.findall(r"goal", result.output)) == 2 * 2 * 4
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (3 * 160, 2 * 160)
