"""The command line. Heavy modules are imported by the command that needs them, so that --help is quick."""

import errno
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from service import __version__
from service.errors import DarkroomError, InvalidRequest

if TYPE_CHECKING:
    from service.api.deps import Parts
    from service.api.schemas import RecipeRequest
    from service.engines.contract import Engine
    from service.images import Format
    from service.recipe import Recipe
    from service.settings import Settings

FORMATS: "dict[str, Format]" = {".png": "png", ".webp": "webp", ".jpg": "jpeg", ".jpeg": "jpeg"}


class Refusal(click.ClickException):
    """The caller's input cannot be honoured."""

    exit_code = 2


class Commands(click.Group):
    """Expected errors as one line: exit code 2 for the caller's, 1 for others, 130 after Ctrl-C."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except DarkroomError as error:
            raise (Refusal if isinstance(error, InvalidRequest) else click.ClickException)(error.message) from error
        except OSError as error:
            if error.errno == errno.EPIPE:  # the reader of stdout left; click knows what to do
                raise
            raise click.ClickException(str(error)) from error
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            context.exit(130)


def machine(function: Any) -> Any:
    """The options every command that opens an engine has."""
    options = [
        click.option("--engine", type=click.Choice(["embedded", "triton", "gaussian"]), help="What runs the networks."),
        click.option("--model-repository", type=click.Path(path_type=Path), help="Triton-layout folder of networks."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def recipe_options(function: Any) -> Any:
    """The options that say what picture is wanted."""
    options = [
        click.option("--model", help="Model; the service's default if absent."),
        click.option("--preset", help="Where every value that is not given comes from (see: darkroom presets)."),
        click.option("--seed", type=int, help="Same seed, same picture; drawn if absent."),
        click.option("--size", help="WIDTHxHEIGHT, one that the model serves."),
        click.option("--steps", "num_inference_steps", type=int, help="Sampling steps."),
        click.option("--sampler", help="Solver of the ODE or SDE."),
        click.option("--schedule", help="How the noise levels are spaced."),
        click.option("--guidance-scale", type=float, help="Strength of the prompt; 1 is off."),
        click.option("--negative-prompt", help="What to steer away from."),
        click.option(
            "--recipe",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help="A recipe to start from: a JSON file or a picture made here. Other options replace its fields.",
        ),
    ]
    for option in reversed(options):
        function = option(function)
    return function


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="darkroom")
def main() -> None:
    """Darkroom develops latents: text to image, every request with its own sampling recipe."""


@main.command()
@click.option("--host", help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on; 0 takes a free one.")
@machine
def serve(**given: Any) -> None:
    """Serve the HTTP API and the page until SIGTERM or Ctrl-C, then finish what is in progress."""
    from service.app import serve as run

    run(settings_with(given), lambda address, parts: click.echo(welcome(address, parts)))


@main.command()
@click.argument("prompt", required=False)
@click.option("-o", "--output", required=True, help="File to write (.png, .webp, .jpg); - is PNG on stdout.")
@recipe_options
@machine
def generate(output: str, recipe: Path | None, **given: Any) -> None:
    """Make one picture of PROMPT, here and now, without a server."""
    from service import images, pipeline
    from service.engines.contract import Ticket
    from service.progress import Progress

    suffix = ".png" if output == "-" else Path(output).suffix.lower()
    if suffix not in FORMATS:
        raise click.BadParameter(f"the name must end in one of {', '.join(FORMATS)}", param_hint="--output")
    if not Path(output).absolute().parent.is_dir():
        raise click.BadParameter(f"there is no folder {Path(output).parent}", param_hint="--output")
    output_format = FORMATS[suffix]
    engine, settled = prepared(recipe, given)
    as_json = settled.model_dump(mode="json")
    images.check_fits(as_json, output_format)
    with click.progressbar(length=len(settled.sigmas) - 1, label="developing", file=sys.stderr) as bar:
        progress = Progress(settled, Ticket(), lambda progress, *_: bar.update(progress.step - bar.pos))
        picture = pipeline.generate(engine, settled, Ticket(), progress)
    with click.open_file(output, "wb", atomic=output != "-") as file:
        file.write(images.encode(picture.pixels, as_json, output_format))
    click.echo(f"{output}: seed {settled.seed}", err=True)
    engine.close()


@main.command()
@click.argument("prompt", required=False)
@recipe_options
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
@machine
def explain(recipe: Path | None, as_json: bool, **given: Any) -> None:
    """Resolve a recipe and show every network call it would make, without making any."""
    from service import pipeline

    engine, settled = prepared(recipe, given, prompt="")
    calls = pipeline.explain(engine.models[settled.model], settled)
    fields = settled.model_dump(mode="json")
    if as_json:
        click.echo(json.dumps({"recipe": fields, "steps": [call._asdict() for call in calls]}, indent=2))
        return
    for name, value in fields.items():
        if name != "sigmas":
            click.echo(f"{name:20} {json.dumps(value, ensure_ascii=False)}")
    rows = [(c.step, f"{c.sigma:.4f}", f"{c.timestep:.2f}", " ".join(c.rows), c.nfe) for c in calls]
    click.echo("\n" + table(("step", "sigma", "timestep", "rows", "nfe"), rows))


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
def presets(as_json: bool) -> None:
    """List the presets and what each is for."""
    from service.recipe import load_presets

    found = load_presets().values()
    if as_json:
        listed = [preset.model_dump(mode="json", exclude_unset=True) for preset in found]
        click.echo(json.dumps(listed, indent=2))
        return
    rows = []
    for preset in found:
        recipe = preset.recipe
        families = ", ".join(preset.families) or "any"
        rows.append(
            (preset.name, recipe.sampler, recipe.schedule, recipe.num_inference_steps, families, preset.description)
        )
    click.echo(table(("preset", "sampler", "schedule", "steps", "models", "what it is for"), rows))


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
@machine
def models(as_json: bool, **given: Any) -> None:
    """List the models and the sizes they serve."""
    from service.api import catalogue

    engine = opened(settings_with(given))
    cards = catalogue.models(engine)
    if as_json:
        click.echo(json.dumps([card.model_dump() for card in cards], indent=2))
        return
    rows = [(card.id, ", ".join(card.sizes), card.default_preset, card.engine, card.digest) for card in cards]
    click.echo(table(("model", "sizes", "default preset", "engine", "digest"), rows))


def welcome(address: str, parts: "Parts") -> str:
    """What someone who has just started the service wants to know."""
    engine = parts.engine
    curl = f"""curl {address}/v1/images/generations -H 'Content-Type: application/json' -H 'Accept: image/png' \\
       -d '{{"prompt": "a red sphere on the beach at dusk"}}' -o picture.png"""
    return f"Darkroom serves {', '.join(engine.models)} ({engine.name}, {engine.precision}): {address}\n  {curl}"


def settings_with(given: dict[str, Any]) -> "Settings":
    """The environment's settings with the options of the command line on top."""
    from pydantic import ValidationError

    from service.settings import Settings

    chosen = {name: given[name] for name in Settings.model_fields if given.get(name) is not None}
    try:
        return Settings(**chosen)
    except ValidationError as error:
        first = error.errors()[0]
        name = "DARKROOM_" + "_".join(map(str, first["loc"])).upper()
        raise InvalidRequest(f"{name}: {first['msg']}", field=name) from error


def opened(settings: "Settings") -> "Engine":
    """The engine of the settings."""
    from service.engines.factory import open_engine

    return open_engine(settings)


def prepared(file: Path | None, given: dict[str, Any], **fallback: Any) -> "tuple[Engine, Recipe]":
    """The engine, and the recipe that the command line asks it for."""
    from service.recipe import load_presets

    settings = settings_with(given)
    engine = opened(settings)
    return engine, wanted(file, given, **fallback).resolved(settings, engine, load_presets())


def wanted(file: Path | None, given: dict[str, Any], **fallback: Any) -> "RecipeRequest":
    """The recipe of a file (JSON, or a picture made here) with the options of the command line on top."""
    from service import images
    from service.api import body
    from service.api.schemas import RecipeRequest
    from service.recipe import merge

    options = {name: given[name] for name in RecipeRequest.model_fields if given.get(name) is not None}
    data = file.read_bytes() if file else b"{}"
    recipe = body.parse(data) if data.lstrip()[:1] == b"{" else images.recipe_of(data)
    return RecipeRequest.parse(fallback | merge(recipe, options))


def table(head: Iterable[Any], rows: Iterable[Iterable[Any]]) -> str:
    """Left-aligned columns."""
    lines = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


if __name__ == "__main__":
    main(prog_name="darkroom")
