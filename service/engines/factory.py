"""Which engine runs the networks: the one place that knows all of them."""

from service.engines.contract import Engine
from service.engines.dispatch import Gate, Observer
from service.engines.embedded import ROWS, EmbeddedEngine
from service.engines.gaussian import GaussianEngine
from service.engines.runtimes import open_runtime
from service.settings import Settings


def open_engine(settings: Settings, observer: Observer | None = None) -> Engine:
    """The engine that the settings name, warm and behind its gate."""
    if settings.engine == "embedded":
        embedded = EmbeddedEngine(settings.model_repository, open_runtime(settings))
        embedded.warm_up(settings.default_model)
        return Gate(
            embedded, in_flight=embedded.lanes, max_rows=max(ROWS), text_cache=settings.text_cache, observer=observer
        )
    return Gate(GaussianEngine(), in_flight=settings.max_concurrency, text_cache=settings.text_cache, observer=observer)
