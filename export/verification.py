"""Compares the torch modules of a checkpoint with the exported networks, on the same random inputs."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from export.families import Model
from export.networks import Network, Precision, Tensors
from export.torch_runtime import Torch
from service.engines.contract import Latent, ModelDescription
from service.engines.tensors import NUMPY
from service.errors import EngineFailure, InvalidRequest, Unavailable

CASES = ((1, 2, 2), (2, 2, 3), (3, 5, 2))  # rows, height and width in multiples of what the network takes
TOLERANCE = {"fp32": 1e-4, "fp16": 1e-2, "bf16": 1e-1}  # of the largest value of an output
STEPS = 4
PICTURE_DB = {"fp32": 50.0, "fp16": 35.0, "bf16": 25.0}

Run = Callable[[Network, Tensors], Tensors]


@dataclass(frozen=True)
class Finding:
    """One comparison in words, and whether it passed."""

    text: str
    ok: bool


def compare(model: Model, repository: Path, description: ModelDescription) -> Iterator[Finding]:
    """Drift of every output over several batches and sizes with a timestep per row; then PSNR of a picture."""
    for network in model.networks:
        if network.role not in description.networks:
            message = f"{description.name} was exported without {network.role}: export it again"
            raise InvalidRequest(message, field=network.role)
    precisions = {role: entry.precision for role, entry in description.networks.items()}
    compiled = {
        role: open_network(repository / entry.entry / "1" / entry.file, entry.precision)
        for role, entry in description.networks.items()
    }

    def exported(network: Network, inputs: Tensors) -> Tensors:
        wanted = {tensor.name: NUMPY[tensor.dtype] for tensor in description.networks[network.role].inputs}
        pairs = zip(network.inputs, inputs, strict=True)
        outputs = compiled[network.role]({port.name: x.numpy().astype(wanted[port.name]) for port, x in pairs})
        return tuple(torch.from_numpy(outputs[port.name].astype(np.float32)) for port in network.outputs)

    for network in model.networks:
        for seed, case in enumerate(CASES):
            yield from _drift(network, network.example(*case, seed=seed), exported, TOLERANCE[precisions[network.role]])
    expected, found = (_picture(model, description.latent, run) for run in (_original, exported))
    yield _psnr(expected, found, PICTURE_DB[precisions[description.denoiser]])


def open_network(file: Path, precision: Precision) -> Any:
    """Named arrays -> named arrays: an exported program with torch, ONNX on OpenVINO's CPU plugin."""
    try:
        if file.suffix == ".pt2":
            return Torch(file, "cpu", attention="sdpa", compile="off")
        import openvino

        hint = "bf16" if precision == "bf16" else "f32"
        compiled = openvino.Core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": hint})
        return lambda feeds: {port.any_name: array for port, array in compiled(feeds).items()}
    except ImportError as error:
        raise Unavailable("ONNX is verified on OpenVINO: install darkroom[embedded]") from error
    except RuntimeError as error:
        raise EngineFailure(f"{file} cannot be loaded: {error}") from error


@torch.no_grad()
def _original(network: Network, inputs: Tensors) -> Tensors:
    outputs = network(*inputs)
    return outputs if isinstance(outputs, tuple) else (outputs,)


def _drift(network: Network, inputs: Tensors, exported: Run, tolerance: float) -> Iterator[Finding]:
    pairs = zip(_original(network, inputs), exported(network, inputs), strict=True)
    for port, (expected, found) in zip(network.outputs, pairs, strict=True):
        absolute = float((expected - found).abs().max())
        relative = absolute / max(float(expected.abs().max()), 1e-30)
        ok = relative <= tolerance  # false for NaN
        text = f"{network.role} {port.name} {list(found.shape)}: max abs {absolute:.1e}, relative {relative:.1e}"
        yield Finding(text, ok)


def _picture(model: Model, latent: Latent, run: Run) -> torch.Tensor:
    """A few steps of the checkpoint's own scheduler from fixed noise and tokens, decoded."""
    scheduler, rows = model.scheduler, 2
    conditioning = run(model.text_encoder, model.text_encoder.example(rows, 1, 1))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        scheduler.set_timesteps(STEPS)
        scale = getattr(scheduler, "scale_model_input", lambda x, _: x)  # flow needs none
        x = model.denoiser.example(rows, 4, 4)[0] * getattr(scheduler, "init_noise_sigma", 1.0)
        for t in scheduler.timesteps:
            inputs = (scale(x, t), t.float().expand(rows), *conditioning)
            x = scheduler.step(run(model.denoiser, inputs)[0], t, x).prev_sample
    return run(model.vae_decoder, (x / latent.scale + latent.shift,))[0].clamp(-1, 1)


def _psnr(expected: torch.Tensor, found: torch.Tensor, least: float) -> Finding:
    error = float((expected - found).double().square().mean())
    decibel = 10 * np.log10(4 / max(error, 1e-20))
    return Finding(f"picture after {STEPS} steps: PSNR {decibel:.1f} dB", bool(decibel >= least))
