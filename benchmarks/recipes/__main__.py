"""Every preset and the published claims on Postcard: quality against network calls.

    python -m benchmarks.recipes [--pictures 128] [--minutes 40] [--only METHOD]... [--report]

Draws, judges and compares; what is drawn is kept under build/benchmarks/recipes, so a stopped run goes on where it was.
Needs the judge (python -m training judge). Writes recipes.md and its plots beside the pictures' numbers.
"""

from pathlib import Path

import click

from benchmarks.recipes import methods, report
from benchmarks.recipes.measure import COPIES, Bench, measure
from benchmarks.recipes.results import Results
from service.engines.factory import open_engine
from service.settings import ROOT, Settings
from training import config as configuration
from training import judge


@click.command()
@click.option("--pictures", type=click.IntRange(min=8), default=128, show_default=True, help="of every method")
@click.option("--minutes", default=40.0, show_default=True, help="begin no further prompt that would end later")
@click.option("--only", multiple=True, help="this method alone; repeat for more")
@click.option("--report", "only_report", is_flag=True, help="draw nothing, write what is known")
@click.option("--folder", type=click.Path(path_type=Path), default=ROOT / "build" / "benchmarks" / "recipes")
@click.option("--config", type=click.Path(exists=True, path_type=Path), default=configuration.DEFAULT)
def main(pictures: int, minutes: float, only: tuple[str, ...], only_report: bool, folder: Path, config: Path) -> None:
    """Draw what is missing, then write the report."""
    settings = configuration.load(config)
    if not judge.path(settings).exists():
        raise click.ClickException(f"{judge.path(settings)} is missing: train the judge (python -m training judge)")
    engine = open_engine(Settings(model_repository=settings.paths.repository))
    found = methods.methods(engine)
    chosen = [method for method in found if not only or method.name in {*only, methods.CONVERGED}]
    if unknown := set(only) - {method.name for method in found}:
        raise click.UsageError(f"no method {sorted(unknown)}; known: {[method.name for method in found]}")
    recipes = {methods.key(recipe): recipe for method in chosen for recipe in method.recipes.values()}
    calls = sum(methods.calls_of(engine, recipe) for recipe in recipes.values())
    click.echo(f"{len(recipes)} recipes, {pictures} pictures of each, {calls * pictures} network calls")
    bench, prompts = Bench.open(engine, settings, folder), pictures // COPIES
    if not only_report:
        measure(bench, recipes, prompts, minutes)
    results = Results(bench, chosen, prompts)
    if results.prompts < 4:
        raise click.ClickException(f"{results.prompts} prompts are finished for all these methods; 4 are needed")
    click.echo(f"{results.prompts} prompts: {report.write(results, folder)}")


if __name__ == "__main__":
    main()
