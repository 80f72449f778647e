"""The torch target at fp16 under the real Triton against diffusers' pipeline, on this CUDA device.

    python -m benchmarks.gpu [--model sd15|sdxl] [--rounds 5] [--compile MODE] [--smoke]

Random weights in the sizes of Stable Diffusion 1.5 and SDXL. Prints what a lone picture takes in both, what eight
mixed recipes take beside eight equal ones, and what of a step is not the network. Without CUDA it says so and ends
with status 0; --smoke runs all of it in small on the CPU, where the figures mean nothing.
"""

import logging
import statistics
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import diffusers
import grpc
import numpy as np
import torch
import transformers
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from benchmarks.gpu.environment import prepare
from benchmarks.gpu.models import LARGE, SMALL, Model, build
from benchmarks.methods import METHODS
from benchmarks.timing import Task, interleave, ratio, seconds, together
from export import families, repository
from export.checkpoint import Checkpoint
from export.triton_server import TritonServer
from service.diffusion.noise import SeededNoise
from service.engines.contract import Engine, Ticket
from service.engines.factory import open_engine
from service.errors import DarkroomError
from service.pipeline import generate
from service.recipe import Overrides, load_presets, resolve
from service.settings import ROOT, Settings

BUILD = ROOT / "build" / "gpu"
GUIDANCE = 5.0
PROMPT = "picture number {} of a red sphere"
GOALS = {"lone": 1.5, "mixed": 0.95, "hop": 0.05}


@dataclass(frozen=True)
class Load:
    """How much is asked: steps of a picture, pictures at once, calls of the step that is timed."""

    steps: int = 20
    together: int = len(METHODS)
    calls: int = 50


SMOKE = Load(steps=2, together=2, calls=2)


@click.command()
@click.option("--model", "names", type=click.Choice(list(LARGE)), multiple=True, default=list(LARGE))
@click.option("--rounds", default=5, show_default=True, help="interleaved rounds; medians are quoted")
@click.option("--compile", default="reduce-overhead", show_default=True, help="mode of torch.compile, or off")
@click.option("--attention", default="sdpa", show_default=True, help="sdpa or xformers")
@click.option("--smoke", is_flag=True, help="everything in small, on the CPU, uncompiled")
def main(names: tuple[str, ...], rounds: int, compile: str, attention: str, smoke: bool) -> None:
    """Print the tables."""
    if not smoke and not torch.cuda.is_available():
        click.echo("there is no CUDA device here: nothing was measured (--smoke runs everything in small)")
        return
    logging.disable(logging.WARNING)
    diffusers.logging.disable_progress_bar()
    transformers.logging.disable_progress_bar()
    options = {"attention": attention, "compile": "off" if smoke else compile}
    try:
        click.echo(f"torch {torch.__version__}, diffusers {diffusers.__version__}, {device_name(smoke)}, {options}")
        environment = prepare(BUILD / "environment")
        for name in names:
            folder = BUILD / ("small" if smoke else "large") / name
            bench = Bench(name, (SMALL if smoke else LARGE)[name], SMOKE if smoke else Load(), rounds)
            bench.run(folder, environment, options, "cpu" if smoke else "cuda")
    except DarkroomError as error:
        raise click.ClickException(error.message) from error


def device_name(smoke: bool) -> str:
    """The GPU and its driver, or the CPU."""
    if smoke:
        return "CPU"
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    return subprocess.run(query, check=True, capture_output=True, text=True).stdout.strip()


def export(name: str, model: Model, checkpoint: Path, entries: Path, options: Mapping[str, str]) -> None:
    """The checkpoint for the torch target, at fp16."""
    loaded = families.load(Checkpoint(checkpoint, torch.float16))
    how: dict[str, Any] = {"sizes": [(model.size, model.size)], "default_preset": "balanced", "precision": "fp16"}
    repository.write(loaded, entries, name=name, target="python-torch", options=options, **how)


class Diffusers:
    """The peer: its own pipeline on the same weights, in the same precision, from the same noise."""

    def __init__(self, checkpoint: Path, model: Model, steps: int, device: str) -> None:
        self.pipeline = diffusers.DiffusionPipeline.from_pretrained(checkpoint, dtype=torch.float16).to(device)
        self.pipeline.set_progress_bar_config(disable=True)
        self.side, self.steps = model.size, steps
        self.latent = (4, *(self.pipeline.unet.config.sample_size,) * 2)

    def __call__(self, index: int) -> np.ndarray:
        noise = SeededNoise(index, self.latent).draw()
        latents = torch.from_numpy(noise)[None].to(self.pipeline.device, torch.float16)
        drawn = self.pipeline(
            PROMPT.format(index), negative_prompt="fog", latents=latents, height=self.side, width=self.side,
            num_inference_steps=self.steps, guidance_scale=GUIDANCE, output_type="np",
        )  # fmt: skip
        return np.asarray(drawn.images[0], np.float64)


@dataclass(frozen=True)
class Bench:
    """One model: built, exported and served, then everybody in turn."""

    name: str
    model: Model
    load: Load
    rounds: int

    def run(self, folder: Path, environment: Path, options: Mapping[str, str], device: str) -> None:
        """All three measurements."""
        checkpoint, entries = folder / "checkpoint", folder / "repository"
        if not checkpoint.exists():
            build(self.model, checkpoint, device)
        export(self.name, self.model, checkpoint, entries, options)
        started = time.perf_counter()
        with TritonServer(entries, environment=environment, patience=1800.0) as server:
            sides = f"{self.model.size} x {self.model.size}"
            click.echo(f"\n{self.name}: {sides}, {self.load.steps} steps, guidance {GUIDANCE}, {self.rounds} rounds")
            click.echo(f"Triton was ready, compiled and warm, after {time.perf_counter() - started:.0f} s")
            settings = Settings(engine="triton", triton_url=server.url, model_repository=entries, text_cache=0)
            engine = open_engine(settings)
            try:
                self.lone(engine, Diffusers(checkpoint, self.model, self.load.steps, device))
                self.mixed(engine)
                self.hop(engine, server.url)
            finally:
                engine.close()

    def draw(self, engine: Engine, index: int, recipe: Mapping[str, object] = METHODS[0]) -> np.ndarray:
        """Picture ``index`` with guidance in every step, as pixels in [0, 1]."""
        wanted = Overrides.parse(
            {"prompt": PROMPT.format(index), "negative_prompt": "fog", "seed": index, "guidance_interval": None}
            | {"num_inference_steps": self.load.steps, "guidance_scale": GUIDANCE, **recipe}
        )
        resolved = resolve(wanted, load_presets(), engine.models, engine.name, engine.precision)
        return generate(engine, resolved, Ticket()).pixels / 255

    def lone(self, engine: Engine, peer: Diffusers) -> None:
        """One picture at a time, prompt to pixels."""
        contestants: dict[str, Task] = {"diffusers": peer, "darkroom": partial(self.draw, engine)}
        taken = interleave({key: partial(seconds, task) for key, task in contestants.items()}, self.rounds)
        gain = ratio(taken["diffusers"], taken["darkroom"])
        psnr = -10 * np.log10(max(float(np.mean((peer(0) - self.draw(engine, 0)) ** 2)), 1e-12))
        medians = ", ".join(f"{key} {statistics.median(found) * 1e3:.0f} ms" for key, found in taken.items())
        click.echo(f"lone picture: {medians}; PSNR between them {psnr:.1f} dB")
        judge("lone", f"{gain:.2f}x diffusers", gain >= GOALS["lone"], f">= {GOALS['lone']}")

    def mixed(self, engine: Engine) -> None:
        """Some at once: of one recipe, and of as many recipes with as many network calls."""
        count = self.load.together
        taken = interleave(
            {
                "equal": partial(together, partial(self.draw, engine), count=count),
                "mixed": partial(together, lambda index: self.draw(engine, index, METHODS[index % count]), count=count),
            },
            self.rounds,
        )
        share = ratio(taken["equal"], taken["mixed"])
        rates = ", ".join(f"{key} {1 / statistics.median(found):.2f} pictures/s" for key, found in taken.items())
        click.echo(f"{count} at once: {rates}")
        judge("mixed", f"{share:.3f} of equal ones", share >= GOALS["mixed"], f">= {GOALS['mixed']}")

    def hop(self, engine: Engine, url: str) -> None:
        """A step with guidance as its caller sees it, and what of that Triton's model does not spend computing."""
        description = engine.models[self.name]
        entry = description.networks[description.denoiser].entry
        rows = [
            engine.encode_text(self.name, engine.tokenize(self.name, text), Ticket()) for text in ("a sphere", "fog")
        ]
        side = self.model.size // description.latent.factor
        x = np.random.default_rng(0).standard_normal((2, description.latent.channels, side, side)).astype(np.float32)
        step = partial(engine.predict, self.name, description.denoiser, x, np.full(2, 500.0), rows, Ticket())
        for _ in range(self.load.calls):
            step()
        before = computing(url, entry)
        whole = statistics.mean(seconds(lambda _: step(), 0) for _ in range(self.load.calls))
        inside = (computing(url, entry) - before) / self.load.calls
        share = 1 - inside / whole
        click.echo(f"a step of two rows: {whole * 1e3:.2f} ms, of which the model {inside * 1e3:.2f} ms")
        judge("hop", f"{share:.1%} of a step", share <= GOALS["hop"], f"<= {GOALS['hop']:.0%}")


def computing(url: str, entry: str) -> float:
    """Seconds that a model of the server has spent in execute(), counted once per batch."""
    with grpc.insecure_channel(url) as channel:
        question = pb.ModelStatisticsRequest(name=entry)
        (answer,) = GRPCInferenceServiceStub(channel).ModelStatistics(question).model_stats
    return sum(batch.compute_infer.ns for batch in answer.batch_stats) / 1e9


def judge(what: str, found: str, reached: bool, goal: str) -> None:
    """A figure beside its goal."""
    click.echo(f"  {what}: {found} (goal {goal}: {'reached' if reached else 'missed'})")


if __name__ == "__main__":
    main()
