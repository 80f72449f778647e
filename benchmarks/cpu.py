"""Darkroom's embedded engine against diffusers (eager) and OpenVINO GenAI: same weights, steps, guidance, noise.

    python -m benchmarks.cpu [--model postcard|random] [--rounds 7]

Prints latency of a lone request, time per picture at two concurrent ones, ratios per interleaved round, PSNR to
diffusers' fp32 picture, and the share of the machine's measured GEMM peak. Every request has its own prompt and noise;
Darkroom's text cache is off.
"""

import logging
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.ceiling import gemm_peak
from benchmarks.networks import build
from benchmarks.ours import Darkroom
from benchmarks.peers import GUIDANCE, STEPS, Diffusers, GenAI, genai_directory, noise
from benchmarks.timing import interleave, ratio, seconds, together
from export.weights import rebuild
from service.settings import ROOT

BUILD = ROOT / "build" / "benchmarks"
SIZE = 256
Draw = Callable[[str, int], np.ndarray]  # prompt, seed -> pixels in [0, 1]


@click.command()
@click.option("--model", type=click.Choice(["postcard", "random"]), multiple=True, default=["postcard", "random"])
@click.option("--rounds", default=7, show_default=True, help="interleaved rounds; medians are quoted")
def main(model: tuple[str, ...], rounds: int) -> None:
    """Print the tables."""
    logging.disable(logging.WARNING)
    peaks = {precision: gemm_peak(precision) for precision in ("f32", "bf16")}
    click.echo(f"measured GEMM peak: fp32 {peaks['f32']:.0f}, bf16 {peaks['bf16']:.0f} GFLOP/s")
    for name in model:
        measure(name, repository(name), rounds, peaks)


def repository(name: str) -> Path:
    """Where the model's entries lie; the random 25 M network is built and exported once."""
    if name == "postcard":
        return ROOT / "model_repository"
    target = BUILD / "repository"
    if not target.exists():
        directory = BUILD / "random"
        build(directory, rebuild(ROOT / "model_repository", "postcard").tokenizer)
        export = [sys.executable, "-m", "export", directory, "--out", target, "--name", name, "--size", f"{SIZE}x{SIZE}"]
        subprocess.run(list(map(str, export)), check=True, cwd=ROOT)
    return target


def measure(name: str, entries: Path, rounds: int, peaks: dict[str, float]) -> None:
    """One model: every contestant, alone and two at a time."""
    pipeline = rebuild(entries, name)
    flops = count_flops(pipeline)
    contestants = open_contestants(name, entries)

    def task(draw: Draw) -> Callable[[int], object]:
        return lambda index: draw(f"picture number {index} of a red sphere", index)

    lone = {key: task(draw) for key, (draw, _) in contestants.items()}
    alone = interleave({key: lambda i, t=t: seconds(t, i) for key, t in lone.items()}, rounds)
    pairs = {key: pair for key, (_, pair) in contestants.items()}
    both = interleave({k: lambda i, p=p: together(dispatch(p, task), 2 * i, 2) for k, p in pairs.items()}, rounds)
    reference = lone["diffusers fp32"](0)
    click.echo(f"\n{name}: {STEPS} Euler steps, guidance {GUIDANCE}, {SIZE} px, {flops / 1e9:.0f} GFLOP a picture, {rounds} rounds")
    click.echo(f"{'':16}{'one, s':>9}{'x fp32':>8}{'x bf16':>8}{'x GenAI':>9}{'two, s':>9}{'x GenAI':>9}{'PSNR dB':>9}{'% peak':>8}")
    for key in contestants:
        peak = peaks["f32" if key.endswith("fp32") else "bf16"] * 1e9
        click.echo(
            f"{key:16}{statistics.median(alone[key]):9.3f}"
            f"{ratio(alone['diffusers fp32'], alone[key]):8.2f}{ratio(alone['diffusers bf16'], alone[key]):8.2f}"
            f"{ratio(alone['GenAI'], alone[key]):9.2f}{statistics.median(both[key]):9.3f}{ratio(both['GenAI'], both[key]):9.2f}"
            f"{psnr(reference, lone[key](0)):9.1f}{100 * flops / statistics.median(alone[key]) / peak:8.0f}"
        )
    click.echo(contestants["darkroom"][0].maths_share())


def open_contestants(name: str, entries: Path) -> dict[str, tuple[Draw, tuple[Draw, Draw]]]:
    """Contestant -> (draw for a lone request, the draws of two concurrent ones)."""
    fp32 = Diffusers(rebuild(entries, name), torch.float32, SIZE)
    bf16 = Diffusers(rebuild(entries, name), torch.bfloat16, SIZE)
    directory = BUILD / f"genai-{name}"
    onnx = {part: entries / f"{name}_{part}" / "1" / "model.onnx" for part in ("text_encoder", "unet", "vae_decoder")}
    origin = rebuild(entries, name)
    genai_directory(origin, onnx, directory)
    lone, *halves = (GenAI(directory, origin, SIZE, threads) for threads in (0, 1, 1))
    ours = Darkroom(entries, name)
    return {
        "diffusers fp32": (fp32, (fp32, fp32)),
        "diffusers bf16": (bf16, (bf16, bf16)),
        "GenAI": (lone, (halves[0], halves[1])),  # two pipelines of one thread each: its better way to serve two at once
        "darkroom": (ours, (ours, ours)),
    }


def dispatch(pair: tuple[Draw, Draw], task: Callable[[Draw], Callable[[int], object]]) -> Callable[[int], object]:
    """Unit 2 i goes to the first of the pair, unit 2 i + 1 to the second."""
    return lambda index: task(pair[index % 2])(index)


def count_flops(pipeline: object) -> float:
    """Floating-point operations of one picture: two rows per step, one decode."""
    shape = noise(pipeline, 0, SIZE).shape
    text = torch.zeros(1, 77, pipeline.unet.config.cross_attention_dim)  # type: ignore[attr-defined]
    with FlopCounterMode(display=False) as unet, torch.no_grad():
        pipeline.unet(torch.zeros(1, *shape), torch.tensor([1]), text)  # type: ignore[attr-defined]
    with FlopCounterMode(display=False) as decoder, torch.no_grad():
        pipeline.vae.decode(torch.zeros(1, *shape))  # type: ignore[attr-defined]
    return float(2 * STEPS * unet.get_total_flops() + decoder.get_total_flops())


def psnr(reference: object, picture: object) -> float:
    """Peak signal-to-noise ratio in dB between pictures in [0, 1]."""
    error = float(np.mean((np.asarray(reference) - np.asarray(picture)) ** 2))
    return float("inf") if error == 0 else -10 * float(np.log10(error))


if __name__ == "__main__":
    main()
