"""Command line: python -m training [--device auto|cpu|cuda] <command>. Numbers come from training/postcard.toml."""

from pathlib import Path
from typing import Any

import click

from service.errors import InvalidRequest
from training import config as configuration
from training import handover, memory


class _Commands(click.Group):
    """A wrong configuration, folder or device is a sentence, not a traceback."""

    def invoke(self, context: click.Context) -> object:
        try:
            return super().invoke(context)
        except (ValueError, InvalidRequest) as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--config", "path", type=click.Path(exists=True, path_type=Path), default=configuration.DEFAULT)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="What trains.")
@click.pass_context
def main(context: click.Context, path: Path, device: str) -> None:
    """Make and judge the shipped model, Postcard."""
    memory.keep_freed()
    context.obj = configuration.load(path, configuration.choose(device))


@main.command()
@click.pass_obj
def render(config: Any) -> None:
    """Render the data set in chunks; resumes where it stopped."""
    from training import data

    data.build(config)


@main.command()
@click.pass_obj
def text(config: Any) -> None:
    """Train the tokenizer and pretrain the text encoder on caption -> attributes."""
    from training import text as stage

    for name, accuracy in stage.make(config).items():
        click.echo(f"{name:9s} {accuracy:.3f}")


@main.command()
@click.option("--watch", is_flag=True, help="Go on until the whole data set is rendered and encoded.")
@click.pass_obj
def features(config: Any, watch: bool) -> None:
    """Encode rendered chunks into latents and their captions into text features."""
    from training import features as stage

    stage.build(config, watch)


@main.command()
@click.option("--deadline", help="End at HH:MM instead of after the configured minutes.")
@click.pass_obj
def unet(config: Any, deadline: str | None) -> None:
    """Train the UNet; resumes from its checkpoint."""
    from training import unet as stage

    stage.train(config, deadline)


@main.command()
@click.option("--deadline", help="End at HH:MM instead of after the configured minutes.")
@click.pass_obj
def refine(config: Any, deadline: str | None) -> None:
    """Go on with the UNet on curated pictures alone, with the numbers of [refined]; resumes from its checkpoint."""
    from training import stages
    from training import unet as stage

    stage.train(stages.settings(config, "refined"), deadline)


@main.command()
@click.option("--deadline", help="End at HH:MM instead of after the configured minutes.")
@click.pass_obj
def autoencoder(config: Any, deadline: str | None) -> None:
    """Fit the PCA and train the decoder; resumes from its checkpoint."""
    from training import decoder

    decoder.train(config, deadline)
    click.echo(decoder.report(config))


@main.command()
@click.option("--deadline", help="End at HH:MM instead of after the configured minutes.")
@click.pass_obj
def redrawn(config: Any, deadline: str | None) -> None:
    """Go on with the decoder, on latents that the UNet has redrawn too: it straightens their edges; resumes."""
    from training import decoder
    from training import redrawn as stage

    stage.train(config, deadline)
    click.echo(decoder.report(config))


@main.command()
@click.pass_obj
def publish(config: Any) -> None:
    """Write the diffusers directory from the latest checkpoints."""
    from training import publish as stage

    click.echo(stage.publish(config))


@main.command(name="export")
@click.pass_context
def into_repository(context: click.Context) -> None:
    """Write the published model into the model repository that the service reads."""
    from export.__main__ import write

    paths, size = context.obj.paths, context.obj.world.size
    context.invoke(write, directory=paths.model, out=paths.repository, sizes=[(size, size)], name=paths.model.name)


@main.command()
@click.argument("names", nargs=-1, type=click.Choice(["judge", "eye", "eye-2", "eye-3"]))
@click.pass_obj
def judge(config: Any, names: tuple[str, ...]) -> None:
    """Train the judge, which measures, and the eyes, judges of other seeds through which losses look; or some of them.

    Prints their accuracy on held-out renders.
    """
    from training import judge as stage

    for name in names or stage.JUDGES:
        for head, accuracy in stage.train(config, name).items():
            click.echo(f"{name:5s} {head:9s} {accuracy:.3f}")


@main.command()
@click.option("--preset", "presets", multiple=True, help="Repeat to compare; default from the configuration.")
@click.option("--prompts", type=click.IntRange(min=2), help="Number of held-out prompts; default as configured.")
@click.pass_obj
def evaluate(config: Any, presets: tuple[str, ...], prompts: int | None) -> None:
    """Judge presets: consistency, diversity and realism with 95 % intervals, their Pareto front as runs/pareto.png."""
    from training import evaluate as stage
    from training import pictures

    result = stage.evaluate(config, presets, prompts)
    click.echo(stage.format_table(result))
    rows = stage.estimates(result)
    click.echo(pictures.pareto(rows, stage.front(rows), config.paths.runs / "pareto.png"))


@main.command()
@click.pass_obj
def curate(config: Any) -> None:
    """Learn from labelled pairs what good pictures are, and choose the best of the data set, concept by concept."""
    from training import curation, curator

    if not curator.path(config).exists():
        for name, share in curator.train(config).items():
            click.echo(f"{name:13s} {share:.3f}")
    click.echo(curation.format_report(curation.curate(config)))


@main.command()
@click.pass_obj
def preference(config: Any) -> None:
    """Train the two judges of preference and print how often they order held-out pairs rightly."""
    from training import preference as stage

    for name in stage.JUDGES:
        click.echo(f"{name:10s} {stage.train(config, name):.3f}")


@main.command()
@click.argument("selection", default="curated-2000")
@click.pass_obj
def tune(config: Any, selection: str) -> None:
    """Tune the UNet on a selection (curated-2000, curated-500, random-2000...) up to the measured optimum; resumes."""
    from training import tuning

    history = tuning.tune(config, selection)
    best = history[tuning.optimum(history, config.tuning.tolerance)]
    click.echo(f"optimum at step {best['step']:.0f}: preferred {best['preferred']:.3f}")


@main.command()
@click.argument("name", default="student")
@click.option("--steps", type=click.IntRange(min=1), help="Of the optimiser; default as configured.")
@click.pass_obj
def student(config: Any, name: str, steps: int | None) -> None:
    """Distil the tuned UNet into a student of 1 to 3 steps, or into one of the ablation's; resumes."""
    from training import student as stage

    config.student.max_steps = steps or config.student.max_steps
    stage.train(config, name)


@main.command()
@click.argument("entries", type=click.Choice(("tuned", "distilled")))
@click.option("--prompts", type=click.IntRange(min=2), help="Number of held-out prompts; default as configured.")
@click.pass_obj
def contest(config: Any, entries: str, prompts: int | None) -> None:
    """Compare what tuning or distillation made: preference by the test judge, accuracy, Frechet distance."""
    from training import contest as stage
    from training import judge

    rows = stage.judged(config, entries, prompts or config.evaluation.prompts)
    click.echo(stage.format_table(rows, judge.HEADS))
    if entries == "tuned":
        click.echo(stage.curve(config, rows, config.paths.runs / "tuning.png"))


@main.command()
@click.option("--prompts", type=click.Path(exists=True, path_type=Path), help="Text file, one prompt a line.")
@click.option("--world", type=int, help="Show this many renders instead of generated pictures.")
@click.option("--output", type=click.Path(path_type=Path), help="PNG file; default in runs.")
@click.pass_obj
def sheet(config: Any, prompts: Path | None, world: int | None, output: Path | None) -> None:
    """Draw a contact sheet of uncurated pictures: prompt i with seed i."""
    from training import pictures

    target = output or config.paths.runs / ("world.png" if world else "sheet.png")
    lines = prompts.read_text().splitlines() if prompts else list(pictures.PROMPTS)
    click.echo(pictures.world_sheet(config, world, target) if world else pictures.sheet(config, lines, target))


@main.command()
@click.pass_obj
def curve(config: Any) -> None:
    """Plot the UNet's training curve."""
    from training import pictures

    click.echo(pictures.curve(config, config.paths.runs / "curve.png"))


@main.command()
@click.option("--recipe", type=click.Path(exists=True, path_type=Path), help="Default: training/upsampler.toml.")
@click.option("--deadline", help="End at HH:MM instead of after the configured minutes.")
@click.option("--begin", help="Without a checkpoint, begin at the upsampler of this model of the repository.")
@click.option("--into", help="Instead, give the trained network to this model of the repository.")
@click.pass_obj
def upsampler(config: Any, recipe: Path | None, deadline: str | None, begin: str | None, into: str | None) -> None:
    """Train the upsampler on crops of large renders; resumes from its checkpoint."""
    from training import judge
    from training import upsampling as stage

    own = configuration.load(recipe or stage.RECIPE, config.device)
    if into:
        stage.publish(own, into)
    else:
        eyes = [judge.load(config, name) for name in judge.EYES] if own.upsampler.perceptual else []
        stage.train(own, deadline, begin, eyes)


for command in handover.COMMANDS:
    main.add_command(command)


@main.command(name="all")
@click.pass_context
def everything(context: click.Context) -> None:
    """Run every stage in order, from nothing to build/postcard and its evaluation (many hours on two cores)."""
    for stage in (
        render, text, judge, autoencoder, features, unet, redrawn, curate, preference, tune, refine, student,
        publish, into_repository, evaluate, sheet, curve,
    ):  # fmt: skip
        click.echo(f"== {stage.name}")
        context.invoke(stage)


if __name__ == "__main__":
    main()
