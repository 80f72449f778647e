"""The torch target's runtime on the CPU; tests/e2e/test_gpu_benchmark.py runs it in the real Triton."""

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from export import families, repository
from export.checkpoint import Checkpoint
from export.networks import Network
from export.torch_runtime import BUCKETS, Torch
from tests.conftest import Exported

Programs = dict[str, tuple[Network, Path]]


@pytest.fixture(scope="module")
def programs(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Programs:
    """Networks of the tiny model with what was exported of them."""
    model = families.load(Checkpoint(exported.checkpoint))
    made = {}
    for network in (model.text_encoder, model.denoiser):
        folder = tmp_path_factory.mktemp(network.role)
        repository.write_program(network, folder)
        made[network.role] = network, folder / "1" / "model.pt2"
    return made


@pytest.fixture
def xformers(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """xformers' attention as its documentation states it, [batch, tokens, heads, channels]: its kernels need CUDA."""
    calls: list[tuple[int, ...]] = []

    def memory_efficient_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        calls.append(tuple(query.shape))
        weights = torch.einsum("bqhc,bkhc->bhqk", query, key) / query.shape[-1] ** 0.5
        return torch.einsum("bhqk,bkhc->bqhc", weights.softmax(-1), value)

    module = ModuleType("xformers.ops")
    module.memory_efficient_attention = memory_efficient_attention
    monkeypatch.setitem(sys.modules, "xformers", ModuleType("xformers"))
    monkeypatch.setitem(sys.modules, "xformers.ops", module)
    return calls


def feeds(network: Network, rows: int) -> dict[str, np.ndarray]:
    return {port.name: x.numpy() for port, x in zip(network.inputs, network.example(rows, 2, 3), strict=True)}


def run(file: Path, arrays: dict[str, np.ndarray], attention: str = "sdpa") -> np.ndarray:
    (output,) = Torch(file, "cpu", attention=attention, compile="off")(arrays).values()
    return output


@pytest.mark.parametrize("rows", [1, sum(BUCKETS), 19])
def test_any_number_of_rows(programs: Programs, rows: int) -> None:
    network, file = programs["unet"]
    arrays = feeds(network, rows)
    expected = network(*(torch.from_numpy(array) for array in arrays.values())).numpy()
    np.testing.assert_allclose(run(file, arrays), expected, atol=2e-6)


def test_xformers_computes_every_attention_without_a_mask(programs: Programs, xformers: list) -> None:
    network, file = programs["unet"]
    arrays = feeds(network, 2)
    np.testing.assert_allclose(run(file, arrays, "xformers"), run(file, arrays), atol=2e-6)
    tokens = np.prod(arrays["sample"].shape[2:]) // 4
    assert [shape[:2] for shape in xformers] == [(2, tokens)] * 2, "of the picture with itself and with the text"
    network, file = programs["text_encoder"]
    arrays = feeds(network, 2)
    np.testing.assert_array_equal(run(file, arrays, "xformers"), run(file, arrays))
    assert len(xformers) == 2, "CLIP's is causal"
