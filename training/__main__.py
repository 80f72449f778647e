"""Command line: python -m training <command>. Every number comes from training/postcard.toml."""

from pathlib import Path
from typing import Any

import click

from training import config as configuration


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--config", "path", type=click.Path(exists=True, path_type=Path), default=configuration.DEFAULT)
@click.pass_context
def main(context: click.Context, path: Path) -> None:
    """Make and judge the shipped model, Postcard."""
    context.obj = configuration.load(path)


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


if __name__ == "__main__":
    main()
