"""Compares the torch modules of a checkpoint with the exported networks, on the same random inputs."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import openvino
import torch

from export.families import Model
from export.networks import Network, Precision, Tensors
from service.engines.contract import Latent, ModelDescription
from service.errors import EngineFailure

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


def precision_of(description: ModelDescription) -> Precision:
    """In what the denoiser computes."""
    return cast(Precision, description.networks[description.denoiser].inputs[0].dtype)


def compare(model: Model, repository: Path, description: ModelDescription) -> Iterator[Finding]:
    """Drift of every output over several batches and sizes with a timestep per row; then PSNR of a picture."""
    precision = precision_of(description)
    compiled = {
        role: compile_network(repository / entry.entry / "1" / entry.file, precision)
        for role, entry in description.networks.items()
    }

    def exported(network: Network, inputs: Tensors) -> Tensors:
        feeds = {port.name: tensor.numpy() for port, tensor in zip(network.inputs, inputs, strict=True)}
        outputs = compiled[network.role](feeds)
        return tuple(torch.from_numpy(outputs[port.name].copy()) for port in network.outputs)

    for network in model.networks:
        for seed, case in enumerate(CASES):
            yield from _drift(network, network.example(*case, seed=seed), exported, TOLERANCE[precision])
    expected, found = (_picture(model, description.latent, run) for run in (_original, exported))
    yield _psnr(expected, found, PICTURE_DB[precision])


def compile_network(file: Path, precision: Precision) -> Any:
    """The network on OpenVINO's CPU plugin with fp32 in and out, whatever it computes in."""
    try:
        core = openvino.Core()
        model = core.read_model(file)
        edges = openvino.preprocess.PrePostProcessor(model)
        for ports, edge in ((model.inputs, edges.input), (model.outputs, edges.output)):
            for index, port in enumerate(ports):
                if port.element_type.is_real():
                    edge(index).tensor().set_element_type(openvino.Type.f32)
        hint = "bf16" if precision == "bf16" else "f32"
        return core.compile_model(edges.build(), "CPU", {"INFERENCE_PRECISION_HINT": hint})
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
