"""The command line. Heavy modules are imported by the command that needs them, so that --help is quick."""

import json
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import click

from service import __version__
from service.console import (
    Commands,
    admitting,
    deadline_option,
    machine,
    made,
    opened,
    prepared,
    recipe_options,
    settings_with,
    suffix_of,
    table,
)

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
@deadline_option("Refused at once if it cannot be met; preset auto takes the best that fits.")
@machine
def generate(output: str, recipe: Path | None, **given: Any) -> None:
    """Make one picture of PROMPT, here and now, without a server."""
    from service import images
    from service.engines.contract import Ticket
    from service.enlargement import final
    from service.making import Order

    output_format = FORMATS[suffix_of(output, FORMATS)]
    engine, settled, admission = prepared(recipe, given)
    ticket = Ticket(deadline=given["deadline_ms"] and monotonic() + given["deadline_ms"] / 1000)
    images.check_fits(settled.model_dump(mode="json"), output_format)
    images.check_size(final(settled), output_format)
    order = Order([settled], output_format, ticket=ticket, streamed=settled.upscale is not None)
    made(engine, admission, order, output)
    click.echo(f"{output}: preset {settled.preset}, seed {settled.seed}", err=True)


@main.command()
@click.argument("picture", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("-o", "--output", required=True, help="File to write (.png); - is stdout.")
@click.option("--factor", type=int, default=4, show_default=True, help="4 or 16.")
@click.option("--method", help="network or lanczos; the network where the model has one.")
@click.option("--model", help="Whose network; the service's default if absent.")
@click.option("--seed", type=int, help="Of the network's noise; drawn if absent.")
@machine
def upscale(picture: Path, output: str, **given: Any) -> None:
    """Enlarge PICTURE (PNG, JPEG or WebP), here and now, without a server."""
    from service import uploads
    from service.api.enlarging import UpscaleRequest
    from service.making import Order

    suffix_of(output, [".png"])
    settings, fields = settings_with(given), {name: given[name] for name in ("factor", "method", "model", "seed")}
    asked = UpscaleRequest.parse(fields)
    pixels = uploads.opened(picture.read_bytes(), settings.max_pixels / asked.factor**2)
    engine, admission = admitting(settings)
    recipe = asked.resolved(settings, engine, pixels.shape[1], pixels.shape[0])
    made(engine, admission, Order([recipe], pixels=pixels, streamed=True), output)
    click.echo(f"{output}: {recipe.upscale.method}", err=True)


@main.command()
@click.argument("prompt", required=False)
@recipe_options
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
@click.option("-o", "--output", help="Draw it instead: file to write (.svg); - is stdout.")
@deadline_option("For preset auto: show which it would take.")
@machine
def explain(recipe: Path | None, as_json: bool, output: str | None, **given: Any) -> None:
    """Resolve a recipe and show every network call it would make, without making any."""
    from service import chart
    from service.enlargement import work

    if given["deadline_ms"] and given["preset"] != "auto":
        raise click.BadParameter("only preset auto looks at it here", param_hint="--deadline-ms")

    if output:
        suffix_of(output, [".svg"])
        if as_json:
            raise click.BadParameter("a drawing is not JSON; leave one of them out", param_hint="--output")
    engine, settled, _ = prepared(recipe, given, prompt="")
    calls = settled.calls(engine.models[settled.model])
    if output:
        with click.open_file(output, "w", encoding="utf-8", atomic=output != "-") as file:
            file.write(chart.steps(settled, calls))
        return
    fields = settled.model_dump(mode="json")
    passes = work(settled, engine.models[settled.model]).passes
    if as_json:
        tables = {"steps": [call._asdict() for call in calls], "upscale": [each._asdict() for each in passes]}
        click.echo(json.dumps({"recipe": fields, **tables}, indent=2))
        return
    for name, value in fields.items():
        if name != "sigmas":
            click.echo(f"{name:20} {json.dumps(value, ensure_ascii=False)}")
    rows = [(c.step, f"{c.sigma:.4f}", f"{c.timestep:.2f}", " ".join(c.rows), c.nfe, c.network) for c in calls]
    click.echo("\n" + table(("step", "sigma", "timestep", "rows", "nfe", "network"), rows))
    if passes:
        click.echo("\n" + table(("upscale to", "", "blocks", "evaluations of each", "network calls"), passes))


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
    engine, settled, _ = prepared(recipe, given | {"prompt": lines[0]}, seed=0)
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
