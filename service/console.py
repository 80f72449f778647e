"""What the commands share: errors as one line, options, the engine and the recipe that they ask for."""

import errno
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from math import inf
from pathlib import Path
from time import perf_counter
from typing import IO, TYPE_CHECKING, Any

import click

from service.errors import DarkroomError, InvalidRequest

if TYPE_CHECKING:
    from service.admission import Admission
    from service.api.schemas import RecipeRequest
    from service.engines.dispatch import Gate, Observer
    from service.making import Order
    from service.recipe import Recipe
    from service.settings import Settings


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
        click.option("--preset", help="Where values that are not given come from (see: darkroom presets), or auto."),
        click.option("--seed", type=int, help="Same seed, same picture; drawn if absent."),
        click.option("--size", help="WIDTHxHEIGHT, one that the model serves."),
        click.option("--steps", "num_inference_steps", type=int, help="Sampling steps."),
        click.option("--sampler", help="Solver of the ODE or SDE."),
        click.option("--schedule", help="How the noise levels are spaced."),
        click.option("--guidance-scale", type=float, help="Strength of the prompt; 1 is off."),
        click.option("--negative-prompt", help="What to steer away from."),
        click.option("--upscale", type=int, callback=_factor, help="Enlarge it so many times: 4 or 16."),
        click.option(
            "--recipe",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help="A recipe to start from: a JSON file or a picture made here. Other options replace its fields.",
        ),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def _factor(_: click.Context, __: click.Parameter, value: int | None) -> dict[str, int] | None:
    return None if value is None else {"factor": value}


def deadline_option(use: str) -> Callable[[Any], Any]:
    """``--deadline-ms``."""
    return click.option("--deadline-ms", type=click.IntRange(1, 86_400_000), help=f"{use} The start is not counted.")


def suffix_of(output: str, known: Collection[str]) -> str:
    """The ending of a file that can be written; the first of the known ones for stdout."""
    suffix = next(iter(known)) if output == "-" else Path(output).suffix.lower()
    if suffix not in known:
        raise click.BadParameter(f"the name must end in one of {', '.join(known)}", param_hint="--output")
    if not Path(output).absolute().parent.is_dir():
        raise click.BadParameter(f"there is no folder {Path(output).parent}", param_hint="--output")
    return suffix


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


def opened(settings: "Settings", *observers: "Observer") -> "Gate":
    """The engine of the settings."""
    from service.engines.factory import open_engine

    return open_engine(settings, observers)


def admitting(settings: "Settings") -> "tuple[Gate, Admission]":
    """The engine, and what judges deadlines by the cost of its calls."""
    from service.admission import Admission
    from service.cost import Costs
    from service.metrics import Metrics

    costs = Costs.kept(settings)
    engine = opened(settings, costs)
    return engine, Admission(costs, Metrics(), {}, places=engine.places, concurrency=1, max_wait=inf)


def prepared(file: Path | None, given: dict[str, Any], **fallback: Any) -> "tuple[Gate, Recipe, Admission]":
    """The engine, the recipe that the command line asks it for, and what judges its deadline."""
    from service.api import auto
    from service.engines.contract import Ticket
    from service.recipe import load_presets

    settings = settings_with(given)
    engine, admission = admitting(settings)
    asked = wanted(file, given, **fallback)

    def needed(recipe: "Recipe") -> float | None:
        return admission.needed(recipe, engine.models[recipe.model], Ticket())

    presets, deadline_ms = load_presets(settings.presets_dir), given.get("deadline_ms")
    return engine, auto.resolved(asked, settings, engine, presets, deadline_ms, None, needed), admission


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


def made(engine: "Gate", admission: "Admission", order: "Order", output: str) -> None:
    """Make the picture of an order and write it to a file as it grows, with a bar on stderr."""
    from service.making import Maker, News
    from service.metrics import Metrics

    recipe, maker = order.recipes[0], Maker(engine, Metrics())
    (share,) = admission.admit(order.recipes, engine.models[recipe.model], order.ticket)
    bar = click.progressbar(length=maker.steps(recipe), label="developing", file=sys.stderr)
    with _whole(output) as file, bar:

        def tell(_: int, what: News) -> None:
            if isinstance(what, bytes):
                file.write(what)
            elif isinstance(what, int):
                bar.update(what - bar.pos)

        file.write(maker.picture(order, 0, share, tell, perf_counter()).data)
    engine.close()
    admission.costs.save()


@contextmanager
def _whole(output: str) -> Iterator[IO[bytes]]:
    """A file that is in its place only once it is whole (click's atomic ones are there after an error too)."""
    if output == "-":
        with click.open_file(output, "wb") as file:
            yield file
        return
    partial = Path(f"{output}.partial")
    try:
        with partial.open("wb") as file:
            yield file
        partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)


def table(head: Iterable[Any], rows: Iterable[Iterable[Any]]) -> str:
    """Left-aligned columns."""
    lines = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)
