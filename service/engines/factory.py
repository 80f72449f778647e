"""Which engine runs the networks: the one place that knows all of them."""

from collections.abc import Sequence

from service.engines.buckets import ROWS
from service.engines.contract import Engine
from service.engines.dispatch import Gate, Observer
from service.engines.embedded import EmbeddedEngine
from service.engines.gaussian import GaussianEngine
from service.engines.runtimes import open_runtime
from service.engines.triton import TritonEngine
from service.settings import Settings


def open_engine(settings: Settings, observers: Sequence[Observer] = ()) -> Gate:
    """The engine that the settings name, warm and behind its gate."""
    if settings.engine == "embedded":
        embedded = EmbeddedEngine(settings.model_repository, open_runtime(settings))
        embedded.warm_up(settings.default_model)
        places, rows = embedded.lanes, max(ROWS)
        return Gate(embedded, in_flight=places, max_rows=rows, text_cache=settings.text_cache, observers=observers)
    if settings.engine == "triton":
        return around(TritonEngine(settings.model_repository, settings.triton_url.split(",")), settings, observers)
    return around(GaussianEngine(), settings, observers)


def around(engine: Engine, settings: Settings, observers: Sequence[Observer] = ()) -> Gate:
    """The gate of an engine that takes as many calls at once as there are pictures in progress."""
    return Gate(engine, in_flight=settings.max_concurrency, text_cache=settings.text_cache, observers=observers)
