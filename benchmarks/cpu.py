"""Darkroom's embedded engine against diffusers (eager) and OpenVINO GenAI: same weights, steps, guidance, noise.

    python -m benchmarks.cpu [--model postcard|random] [--rounds 7]

Prints the latency of a lone request, the time per picture of two concurrent ones, ratios per interleaved round, the
median PSNR to diffusers' fp32 pictures (a single one may lie at a turning point), and the share of the machine's
measured GEMM peak. Every request has its own prompt and noise; Darkroom's text cache is off.
"""

import logging
import statistics
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.ceiling import gemm_peak
from benchmarks.genai import GenAI, genai_directory
from benchmarks.networks import SIZE, build
from benchmarks.ours import Darkroom
from benchmarks.peers import GUIDANCE, STEPS, Diffusers, noise
from benchmarks.timing import interleave, ratio, seconds, together
from export.weights import rebuild
from service.settings import ROOT

BUILD = ROOT / "build" / "benchmarks"
COMPARED = 8  # pictures of which PSNR is the median
HEADER = ("", "one, s", "x fp32", "x bf16", "x GenAI", "two, s", "x GenAI", "PSNR dB", "% peak")
Draw = Callable[[str, int], np.ndarray]  # prompt, seed -> pixels in [0, 1]


@dataclass(frozen=True)
class Contestant:
    """Who draws a lone request, who the first and the second of two concurrent ones, in which precision."""

    lone: Draw
    pair: tuple[Draw, Draw]
    precision: str

    def one(self, index: int) -> np.ndarray:
        """Request ``index``, alone."""
        return self.lone(f"picture number {index} of a red sphere", index)

    def of_two(self, index: int) -> np.ndarray:
        """Request ``index`` beside its neighbour."""
        return self.pair[index % 2](f"picture number {index} of a red sphere", index)


@click.command()
@click.option("--model", type=click.Choice(["postcard", "random"]), multiple=True, default=["postcard", "random"])
@click.option("--rounds", default=7, show_default=True, help="interleaved rounds; medians are quoted")
def main(model: tuple[str, ...], rounds: int) -> None:
    """Print the tables."""
    logging.disable(logging.WARNING)
    peaks = {"fp32": gemm_peak("f32"), "bf16": gemm_peak("bf16")}
    click.echo(f"measured GEMM peak: fp32 {peaks['fp32']:.0f}, bf16 {peaks['bf16']:.0f} GFLOP/s")
    for name in model:
        measure(name, repository(name), rounds, peaks)


def repository(name: str) -> Path:
    """Where the model's entries lie; the random 25 M network is built and exported once."""
    shipped = ROOT / "model_repository"
    if name == "postcard":
        return shipped
    target, directory = BUILD / "repository", BUILD / "random"
    if not target.exists():
        build(directory, shipped / "postcard_unet" / "description" / "tokenizer.json")
        command = [sys.executable, "-m", "export", "write", directory, "--out", target]
        subprocess.run([*map(str, command), "--name", name, "--size", f"{SIZE}x{SIZE}"], check=True, cwd=ROOT)
    return target


def measure(name: str, entries: Path, rounds: int, peaks: dict[str, float]) -> None:
    """One model: every contestant, alone and two at a time."""
    flops = count_flops(rebuild(entries, name))
    ours = Darkroom(entries, name)
    contestants = peers(name, entries) | {"darkroom": Contestant(ours, (ours, ours), ours.engine.precision)}
    alone = interleave({key: partial(seconds, it.one) for key, it in contestants.items()}, rounds)
    both = interleave({key: partial(together, it.of_two, count=2) for key, it in contestants.items()}, rounds)
    references = [contestants["diffusers fp32"].one(index) for index in range(COMPARED)]
    click.echo(
        f"\n{name}: {STEPS} Euler steps, guidance {GUIDANCE}, {flops / 1e9:.0f} GFLOP a picture, {rounds} rounds"
    )
    click.echo(f"{HEADER[0]:16}" + "".join(f"{title:>9}" for title in HEADER[1:]))
    for key, it in contestants.items():
        figures = (
            statistics.median(alone[key]),
            *(ratio(alone[other], alone[key]) for other in ("diffusers fp32", "diffusers bf16", "GenAI")),
            statistics.median(both[key]),
            ratio(both["GenAI"], both[key]),
            statistics.median(psnr(reference, it.one(index)) for index, reference in enumerate(references)),
            flops / statistics.median(alone[key]) / peaks[it.precision] / 1e7,
        )
        click.echo(f"{key:16}" + "".join(f"{figure:9.3f}" for figure in figures))
    click.echo(ours.maths_share())


def peers(name: str, entries: Path) -> dict[str, Contestant]:
    """diffusers in both precisions, and GenAI on the same ONNX files."""
    fp32, bf16 = (Diffusers(rebuild(entries, name), dtype, SIZE) for dtype in (torch.float32, torch.bfloat16))
    origin, directory = rebuild(entries, name), BUILD / f"genai-{name}"
    onnx = {part: entries / f"{name}_{part}" / "1" / "model.onnx" for part in ("text_encoder", "unet", "vae_decoder")}
    genai_directory(origin, onnx, directory)
    lone, first, second = (GenAI(directory, origin, SIZE, threads) for threads in (0, 1, 1))
    queued = in_turn(lone, threading.Lock())
    return {
        "diffusers fp32": Contestant(fp32, (fp32, fp32), "fp32"),
        "diffusers bf16": Contestant(bf16, (bf16, bf16), "bf16"),
        "GenAI": Contestant(lone, (first, second), "bf16"),  # two pipelines of one thread each
        "GenAI, in turn": Contestant(lone, (queued, queued), "bf16"),  # one pipeline, all threads
    }


def in_turn(draw: Draw, turn: threading.Lock) -> Draw:
    """A pipeline that cannot serve two at once serves them one after the other."""

    def drawn(prompt: str, seed: int) -> np.ndarray:
        with turn:
            return draw(prompt, seed)

    return drawn


def count_flops(pipeline: StableDiffusionPipeline) -> float:
    """Floating-point operations of one picture: two rows per step, one decode."""
    latent = torch.from_numpy(noise(pipeline, 0, SIZE))[None]
    text = torch.zeros(1, 77, pipeline.unet.config.cross_attention_dim)
    with FlopCounterMode(display=False) as unet, torch.no_grad():
        pipeline.unet(latent, torch.tensor([1]), text)
    with FlopCounterMode(display=False) as decoder, torch.no_grad():
        pipeline.vae.decode(latent)
    return float(2 * STEPS * unet.get_total_flops() + decoder.get_total_flops())


def psnr(reference: np.ndarray, picture: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB between pictures in [0, 1]."""
    error = float(np.mean((reference - picture) ** 2))
    return float("inf") if error == 0 else -10 * float(np.log10(error))


if __name__ == "__main__":
    main()
