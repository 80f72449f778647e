"""python -m export DIR --out REPO: a checkpoint becomes entries of a Triton repository. verify, configure."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import diffusers
import transformers

from export import families, repository, triton_config, verification
from export.checkpoint import Checkpoint
from export.lora import Lora
from export.networks import STORED, Precision
from export.targets import DEFAULT, ONNX, TARGETS
from export.weights import find
from service.engines.contract import load_descriptions
from service.errors import DarkroomError


class _Commands(click.Group):
    """Without the name of a command, ``write`` is meant; expected errors are sentences, not tracebacks."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, "--help"):
            args = ["write", *args]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except DarkroomError as error:
            raise click.ClickException(error.message) from error


class _Size(click.ParamType):
    name = "WxH"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", str(value))
        if match is None:
            self.fail(f"{value} is not a size such as 512x768", param, ctx)
        return int(match[1]), int(match[2])


class _Lora(click.ParamType):
    name = "FILE[=SCALE]"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Lora:
        file, _, scale = str(value).partition("=")
        try:
            strength = float(scale or 1)
        except ValueError:
            self.fail(f"{scale} is not a number", param, ctx)
        return Lora(Path(file), strength)


DIRECTORY = click.Path(exists=True, file_okay=False, path_type=Path)
directory = click.argument("directory", type=DIRECTORY)
model_name = click.option("--name", help="name of the model  [default: the directory's]")
loras = click.option("--lora", "loras", multiple=True, type=_Lora(), help="adapter to merge; repeatable")


def targets(command: Any) -> Any:
    """--target and the options of its runtime."""
    kinds, runtime = click.Choice(list(TARGETS)), TARGETS["python-torch"].options
    for name, values in runtime.items():
        text = f"of python-torch  [default: {values[0]}]"
        command = click.option(f"--{name}", type=click.Choice(values), help=text)(command)
    text = "what runs it in Triton"
    return click.option("--target", type=kinds, default=DEFAULT, show_default=True, help=text)(command)


def _given(target: str, options: Mapping[str, str | None]) -> dict[str, str]:
    given = {name: value for name, value in options.items() if value is not None}
    for name in given:
        if name not in TARGETS[target].options:
            raise click.UsageError(f"--{name} is no option of {target}")
    return given


@click.group(cls=_Commands)
def main() -> None:
    """Exports checkpoints in diffusers format: python -m export DIR --out REPO."""
    diffusers.logging.set_verbosity_error()
    diffusers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


@main.command()
@directory
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Triton model repository")
@model_name
@click.option("--default-preset", default="balanced", show_default=True, help="preset of a request that names none")
@click.option("--size", "sizes", multiple=True, type=_Size(), help="repeatable; the first is the default")
@click.option(
    "--precision", type=click.Choice(list(STORED)), default="fp32", show_default=True, help="of the arithmetic"
)
@click.option("--autocast", is_flag=True, help="mixed: ModelOpt keeps in fp32 what --precision cannot hold")
@targets
@loras
def write(
    directory: Path,
    out: Path,
    name: str | None,
    default_preset: str,
    sizes: tuple[tuple[int, int], ...],
    precision: Precision,
    autocast: bool,
    target: str,
    loras: tuple[Lora, ...],
    **options: str | None,
) -> None:
    """Write the model in DIRECTORY (diffusers format) into a Triton model repository."""
    if autocast and (precision == "fp32" or TARGETS[target].file != ONNX):
        raise click.UsageError("--autocast needs ONNX, and --precision fp16 or bf16")
    description = repository.write(
        families.load(Checkpoint(directory, STORED[precision], loras)),
        out,
        name=name or directory.resolve().name,
        default_preset=default_preset,
        sizes=sizes,
        precision=precision,
        mixed=autocast,
        target=target,
        options=_given(target, options),
        progress=lambda step: click.echo(f"  {step}", err=True),
    )
    for network in description.networks.values():
        megabytes = (out / network.entry / "1" / network.file).stat().st_size / 1e6
        click.echo(f"{out / network.entry}  {megabytes:.1f} MB  {network.digest}")
    click.echo(f"{description.name} {description.digest}")


@main.command()
@directory
@click.argument("exported", metavar="REPO", type=DIRECTORY)
@model_name
@loras
def verify(directory: Path, exported: Path, name: str | None, loras: tuple[Lora, ...]) -> None:
    """Compare DIRECTORY and REPO on the same inputs; exit 1 if they differ by more than rounding."""
    description, _ = find(exported, name or directory.resolve().name)
    model = families.load(Checkpoint(directory, STORED[description.networks[description.denoiser].precision], loras))
    failed = False
    for finding in verification.compare(model, exported, description):
        click.echo(f"{'ok   ' if finding.ok else 'DRIFT'} {finding.text}")
        failed = failed or not finding.ok
    if failed:
        raise click.ClickException("the exported networks drift from the checkpoint")


@main.command()
@click.argument("exported", metavar="REPO", type=DIRECTORY)
@targets
def configure(exported: Path, target: str, **options: str | None) -> None:
    """Have all models of REPO run by another target, without exporting them again."""
    given = _given(target, options)
    for model, _ in load_descriptions(exported).values():
        for role, network in model.networks.items():
            triton_config.configure(exported / network.entry, model, role, target, given)
            click.echo(f"{exported / network.entry}  {target}")


if __name__ == "__main__":
    main(prog_name="python -m export")
