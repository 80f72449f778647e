"""From an order to the file: a network of random weights, streamed by the one who makes pictures."""

import io
from collections.abc import Callable

import numpy as np
from PIL import Image

from service.admission import Share
from service.engines.embedded import EmbeddedEngine
from service.enlargement import Enlargement
from service.images import recipe_of
from service.making import Maker, News, Order
from service.metrics import Metrics
from service.upscale import upscale
from service.upscaling.options import Upscaling
from tests.engines.tiny import NAME
from tests.upscaling.conftest import HOW


def test_the_streamed_file_holds_the_rows_of_the_network(open_engine: Callable[[str], EmbeddedEngine]) -> None:
    engine = open_engine("auto")
    pixels = np.random.default_rng(0).integers(0, 256, (21, 14, 3), np.uint8)
    how = Upscaling(factor=4, method="network", sampler="euler", sigmas=tuple(HOW.sigmas))
    facts = {"model": NAME, "model_digest": "x", "engine": engine.name, "precision": engine.precision}
    recipe = Enlargement(**facts, width=14, height=21, seed=HOW.seed, upscale=how)
    order, maker = Order([recipe], pixels=pixels, streamed=True), Maker(engine, Metrics())
    told: list[News] = []
    made = maker.picture(order, 0, Share(None, ()), lambda _, what: told.append(what), 0.0)
    pieces = [what for what in told if isinstance(what, bytes)]
    steps = [what for what in told if isinstance(what, int)]
    assert made.data == b""
    with Image.open(io.BytesIO(b"".join(pieces))) as image:
        found = np.asarray(image)
    rows = [step.rows for step in upscale(engine, HOW, pixels, order.ticket)]
    np.testing.assert_array_equal(found, np.concatenate(rows))
    assert recipe_of(b"".join(pieces))["upscale"]["sampler"] == "euler"
    assert steps == sorted(steps)
    assert steps[-1] == maker.steps(recipe)
