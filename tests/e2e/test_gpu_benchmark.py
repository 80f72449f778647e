"""The benchmark of the torch target: in small on the CPU, under the real Triton, its pictures those of diffusers."""

import logging
import re
from collections.abc import Iterator

import pytest
import torch
from click.testing import CliRunner

from benchmarks.gpu.__main__ import main

LEAST_DB = 40.0  # both in fp16, by different kernels


@pytest.fixture(autouse=True)
def logging_is_as_before() -> Iterator[None]:
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.triton
@pytest.mark.slow
def test_everything_runs_in_small() -> None:
    result = CliRunner().invoke(main, ["--smoke", "--rounds", "1", "--model", "sdxl"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    (psnr,) = re.findall(r"PSNR between them ([\d.]+) dB", result.output)
    assert float(psnr) > LEAST_DB
    for figure in (r"lone: [\d.]+x diffusers", r"mixed: [\d.]+ of equal ones", r"hop: -?[\d.]+% of a step"):
        assert re.search(figure, result.output), result.output


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_without_cuda_it_says_so() -> None:
    result = CliRunner().invoke(main, [])
    assert result.exit_code == 0
    assert "there is no CUDA device here: nothing was measured" in result.output
