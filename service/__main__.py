"""The command line. Heavy modules are imported by the command that needs them, so that --help is quick."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from service import __version__
from service.console import Commands, machine, opened, prepared, recipe_options, settings_with, suffix_of, table

if TYPE_CHECKING:
    from service.api.deps import Parts
    from service.images import Format

FORMATS: "dict[str, Format]" = {".png": "png", ".webp": "webp", ".jpg": "jpeg", ".jpeg": "jpeg"}


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

    output_format = FORMATS[suffix_of(output, FORMATS)]
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
@click.option("-o", "--output", help="Draw it instead: file to write (.svg); - is stdout.")
@machine
def explain(recipe: Path | None, as_json: bool, output: str | None, **given: Any) -> None:
    """Resolve a recipe and show every network call it would make, without making any."""
    from service import chart

    if output:
        suffix_of(output, [".svg"])
        if as_json:
            raise click.BadParameter("a drawing is not JSON; leave one of them out", param_hint="--output")
    engine, settled = prepared(recipe, given, prompt="")
    calls = settled.calls(engine.models[settled.model])
    if output:
        with click.open_file(output, "w", encoding="utf-8", atomic=output != "-") as file:
            file.write(chart.steps(settled, calls))
        return
    fields = settled.model_dump(mode="json")
    if as_json:
        click.echo(json.dumps({"recipe": fields, "steps": [call._asdict() for call in calls]}, indent=2))
        return
    for name, value in fields.items():
        if name != "sigmas":
            click.echo(f"{name:20} {json.dumps(value, ensure_ascii=False)}")
    rows = [(c.step, f"{c.sigma:.4f}", f"{c.timestep:.2f}", " ".join(c.rows), c.nfe, c.network) for c in calls]
    click.echo("\n" + table(("step", "sigma", "timestep", "rows", "nfe", "network"), rows))


@main.command()
@click.argument("what", type=click.Choice(["schedule", "epsilon"]))
@click.option("--prompts", required=True, type=click.Path(path_type=Path), help="What is asked for, one a line.")
@click.option("--pictures", default=32, show_default=True, type=click.IntRange(2, 10_000), help="How many to measure.")
@click.option("-o", "--output", required=True, help="Preset to write (.toml); its name is the file's.")
@recipe_options
@machine
def calibrate(what: str, prompts: Path, pictures: int, output: str, recipe: Path | None, **given: Any) -> None:
    """Make a preset for a model from its own pictures: a SCHEDULE, or constants of EPSILON scaling.

    The recipe says what is served: sampler, steps, guidance. Ctrl-C, and the same command again, continues.
    """
    from service import calibrate
    from service.recipe import load_presets

    suffix_of(output, [".toml"])
    lines = calibrate.prompts_of(prompts)
    engine, settled = prepared(recipe, given | {"prompt": lines[0]}, seed=0)
    preset = load_presets(settings_with(given).presets_dir)[settled.preset]
    for head, rows in calibrate.calibrate(what, engine, settled, preset, lines, pictures, Path(output)):
        click.echo(table(head, rows) + "\n")
    engine.close()


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
def presets(as_json: bool) -> None:
    """List the presets and what each is for."""
    from service.recipe import load_presets

    found = load_presets(settings_with({}).presets_dir).values()
    if as_json:
        listed = [preset.model_dump(mode="json", exclude_unset=True) for preset in found]
        click.echo(json.dumps(listed, indent=2))
        return
    rows = []
    for preset in found:
        recipe = preset.recipe
        schedule = "its own" if preset.levels else recipe.schedule
        families = ", ".join(preset.families) or "any"
        rows.append((preset.name, recipe.sampler, schedule, recipe.num_inference_steps, families, preset.description))
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


@main.command()
@click.argument("name")
@click.option(
    "--allow", "presets", multiple=True, help="A preset that the key may use; repeat for more. All if absent."
)
@click.option("--seconds-per-minute", type=click.FloatRange(min=0, min_open=True), help="Its budget of engine seconds.")
def key(name: str, presets: tuple[str, ...], seconds_per_minute: float | None) -> None:
    """Make an API key: its entry for DARKROOM_KEYS_FILE on stdout, the key itself, shown only now, on stderr."""
    from service import keys

    secret, entry = keys.new(name, presets, seconds_per_minute)
    click.echo(entry, nl=False)
    click.echo(f"{name}: {secret}", err=True)


def welcome(address: str, parts: "Parts") -> str:
    """What someone who has just started the service wants to know."""
    engine = parts.engine
    curl = f"""curl {address}/v1/images/generations -H 'Content-Type: application/json' -H 'Accept: image/png' \\
       -d '{{"prompt": "a red sphere on the beach at dusk"}}' -o picture.png"""
    return f"Darkroom serves {', '.join(engine.models)} ({engine.name}, {engine.precision}): {address}\n  {curl}"


if __name__ == "__main__":
    main(prog_name="darkroom")
