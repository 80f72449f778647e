"""The commands that take a run from one machine to another."""

from pathlib import Path
from typing import Any

import click


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--whole", is_flag=True, help="Optimisers too, in full precision; else averaged weights in half.")
@click.pass_obj
def pack(config: Any, folder: Path, whole: bool) -> None:
    """Write the run's checkpoints into FOLDER, in pieces of less than 16 MB with a manifest."""
    from training import pack as stage

    click.echo(stage.pack(config, folder, whole))


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.pass_obj
def unpack(config: Any, folder: Path) -> None:
    """Join the pieces in FOLDER and put their files into the run, over those it holds."""
    from training import pack as stage

    click.echo("\n".join(stage.unpack(config, folder)))


@click.command(name="from-published")
@click.pass_obj
def from_published(config: Any) -> None:
    """Fill what the run lacks with the published model's parts, so that training goes on from them."""
    from training import published

    click.echo("\n".join(published.start(config)))


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.pass_obj
def lease(config: Any, folder: Path) -> None:
    """Render, train decoder and UNet within [lease]'s minutes, and write the weights into FOLDER."""
    from training import lease as stage

    click.echo(stage.run(config, folder))


COMMANDS = (pack, unpack, from_published, lease)
