"""One picture from its recipe to its bytes, in a worker thread."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic, perf_counter

import numpy as np

from service import images
from service.admission import Share
from service.diffusion.types import Array
from service.engines.contract import Engine, Ticket
from service.enlargement import Enlargement, final, work
from service.errors import Cancelled, DarkroomError, DeadlineExceeded, EngineFailure
from service.metrics import Metrics
from service.pipeline import Picture, Stopwatch, generate
from service.progress import Pixels, Previewer, Progress
from service.recipe import Recipe
from service.upscale import enlarged

PARTS = {"queue", "text_encode", "denoise", "decode", "upscale", "encode"}


@dataclass(frozen=True)
class Order:
    """The pictures of one request, the files they become, how many previews each shows on its way."""

    recipes: Sequence[Recipe | Enlargement]
    output_format: images.Format = "png"
    quality: int = 100
    previews: int = 0
    ticket: Ticket = field(default_factory=Ticket)
    pixels: Pixels = field(default_factory=lambda: np.empty((0, 0, 3), np.uint8))  # of a caller's own picture
    streamed: bool = False  # the file is told piece by piece


@dataclass(frozen=True)
class Preview:
    """A picture on its way, after so many steps."""

    data: bytes
    index: int
    step: int


@dataclass(frozen=True)
class Made:
    """One picture as a file, the recipe that made it, seconds by part."""

    data: bytes
    recipe: Recipe | Enlargement
    timings: dict[str, float]


News = int | bytes | Preview | Made  # steps done (0: it starts), a piece of the file, a preview, the picture
Tell = Callable[[int, News], None]  # with the number of the picture


class Maker:
    """Makes pictures; ``proven`` is when a network call last succeeded."""

    def __init__(self, engine: Engine, metrics: Metrics) -> None:
        self._engine, self._metrics = engine, metrics
        self.proven = float("-inf")

    def steps(self, recipe: Recipe | Enlargement) -> int:
        """What progress counts: the sampler's steps, and the blocks or strips of an enlargement."""
        return _sampled(recipe) + work(recipe, self._engine.models[recipe.model]).steps

    def picture(self, order: Order, number: int, share: Share, tell: Tell, submitted: float) -> Made:
        """One picture of an order. ``submitted``: when it was, by time.perf_counter()."""
        started, recipe = perf_counter(), order.recipes[number]
        order.ticket.trace.past("queue", submitted, started)
        if isinstance(recipe, Recipe):
            picture = self._developed(order, recipe, number, share, tell, submitted)
        else:
            tell(number, 0)
            picture = Picture(order.pixels, {})
        encoding = perf_counter()
        with self._counting(lambda: "upscale"):
            try:
                data = self._file(order, number, picture, share, tell)
            except DarkroomError as error:
                error.__context__ = None  # nor does it bring along frames, which hold all keys and values
                raise error.with_traceback(None) from None
        ended, parts = perf_counter(), {"queue": started - submitted, **picture.timings}
        order.ticket.trace.past("upscale" if recipe.upscale else "encode", encoding, ended)
        parts |= {"encode": ended - encoding - parts.get("upscale", 0.0), "total": ended - submitted}
        for part in PARTS & parts.keys():
            self._metrics.parts.labels(recipe.preset, part).observe(parts[part])
        if recipe.upscale is None:
            self._metrics.overhead.observe(parts["denoise"] - parts["network"] + parts["encode"])
        self._metrics.saved_rows.inc(share.saved_rows)
        made = Made(data, recipe, parts)
        tell(number, made)
        return made

    def _developed(
        self, order: Order, recipe: Recipe, number: int, share: Share, tell: Tell, submitted: float
    ) -> Picture:
        """The picture as the model makes it."""

        def preview(pixels: Pixels, index: int, step: int) -> None:
            tell(number, Preview(images.encode(pixels, None, order.output_format, order.quality), index, step))

        def evaluated(progress: Progress, x0: Array, seconds: float) -> None:
            self.proven = monotonic()
            self._metrics.step.observe(seconds)
            share.evaluated(progress.evaluations)
            if progress.evaluations == 1:
                self._metrics.first_step.observe(perf_counter() - submitted)
            previewed(progress.step, x0)
            tell(number, progress.step)

        last = bool(recipe.upscale and order.previews)  # is the picture before it is enlarged
        previewed = Previewer(recipe, order.previews - last, self._engine.models[recipe.model].preview, preview)
        progress = Progress(recipe, order.ticket, evaluated)
        with self._counting(lambda: progress.stage):
            order.ticket.check()
            tell(number, 0)
            picture = generate(self._engine, recipe, order.ticket, progress)
        if last:
            preview(picture.pixels, order.previews - 1, progress.total)
        return picture

    @contextmanager
    def _counting(self, stage: Callable[[], str]) -> Iterator[None]:
        """What is stopped is counted by its stage; what fails says that the engine is not proven any more."""
        try:
            yield
        except (Cancelled, DeadlineExceeded):
            self._metrics.cancellations.labels(stage()).inc()
            raise
        except EngineFailure:
            self.proven = float("-inf")
            raise

    def _file(self, order: Order, number: int, picture: Picture, share: Share, tell: Tell) -> bytes:
        """The bytes of a picture, enlarged where the recipe says so; none where they were told piece by piece."""
        recipe, form = order.recipes[number], (order.output_format, order.quality)
        if recipe.upscale is None:
            return images.encode(picture.pixels, recipe.model_dump(mode="json"), *form)
        rows = self._rows(order, number, picture, share, tell)
        pieces = images.written(rows, final(recipe), recipe.model_dump(mode="json"), *form)
        if not order.streamed:
            return b"".join(pieces)
        for piece in pieces:
            tell(number, piece)
        return b""

    def _rows(self, order: Order, number: int, picture: Picture, share: Share, tell: Tell) -> Iterator[Pixels]:
        """The rows of the enlarged picture as they are done."""
        recipe, clock = order.recipes[number], Stopwatch(picture.timings)
        share.enlarged(0.0)
        steps = enlarged(self._engine, recipe, picture.pixels, order.ticket)
        while True:
            with clock("upscale"):
                step = next(steps, None)
            if step is None:
                return
            if recipe.upscale and recipe.upscale.method == "network":
                self.proven = monotonic()
            share.enlarged(step.done / step.total)
            tell(number, _sampled(recipe) + step.done)
            if len(step.rows):
                yield step.rows


def _sampled(recipe: Recipe | Enlargement) -> int:
    return len(recipe.sigmas) - 1 if isinstance(recipe, Recipe) else 0
