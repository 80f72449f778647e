"""Prometheus instruments: base units, bounded labels, the registry injected. Never a prompt, never a free text."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

disable_created_metrics()  # type: ignore[no-untyped-call]  # they double the series and nothing reads them

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0, 180.0)
ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)


class Metrics:
    """Every instrument of the service, in one registry."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        r = self.registry
        self.requests = Counter(
            "darkroom_requests", "Requests by API family, preset and outcome", ["api", "preset", "outcome"], registry=r
        )
        self.duration = Histogram(
            "darkroom_request_duration_seconds", "Whole requests", ["api", "outcome"], buckets=SECONDS, registry=r
        )
        self.parts = Histogram(
            "darkroom_part_duration_seconds",
            "Parts of one picture: queue, text_encode, denoise, decode, encode",
            ["part"],
            buckets=SECONDS,
            registry=r,
        )
        self.step = Histogram(
            "darkroom_denoise_step_duration_seconds", "One evaluation of the denoiser", buckets=SECONDS, registry=r
        )
        self.first_step = Histogram(
            "darkroom_time_to_first_step_seconds",
            "Admission to the end of the first evaluation",
            buckets=SECONDS,
            registry=r,
        )
        call = ["model", "network"]
        self.rows = Histogram("darkroom_call_rows", "Rows of one network call", call, buckets=ROWS, registry=r)
        self.callers = Histogram(
            "darkroom_call_requests", "Pictures whose rows shared one network call", call, buckets=ROWS, registry=r
        )
        self.call = Histogram("darkroom_call_duration_seconds", "Network calls", call, buckets=SECONDS, registry=r)
        self.call_wait = Histogram(
            "darkroom_call_wait_seconds", "Longest wait of a call's rows in the gate", call, buckets=SECONDS, registry=r
        )
        self.drops = Counter("darkroom_call_drops", "Calls dropped before dispatch", ["reason"], registry=r)
        self.in_progress = Gauge("darkroom_pictures_in_progress", "Pictures being made", registry=r)
        self.waiting = Gauge("darkroom_pictures_waiting", "Pictures admitted and waiting", registry=r)
        self.refusals = Counter("darkroom_refusals", "Requests refused, by reason", ["reason"], registry=r)
        self.cancellations = Counter(
            "darkroom_cancellations", "Pictures cancelled, by the stage they were in", ["stage"], registry=r
        )
        self.deadlines = Counter(
            "darkroom_deadlines", "Requests with a deadline: met, missed, refused", ["outcome"], registry=r
        )
        self.text_lookups = Counter("darkroom_text_cache_lookups", "Encoded-prompt cache", ["result"], registry=r)
        self.model = Gauge(
            "darkroom_model_info",
            "Models served: always 1",
            ["model", "digest", "engine", "precision"],
            registry=r,
        )

    def called(self, model: str, network: str, rows: int, requests: int, waited: float, took: float) -> None:
        """One network call, as the dispatch gate reports it."""
        self.rows.labels(model, network).observe(rows)
        self.callers.labels(model, network).observe(requests)
        self.call_wait.labels(model, network).observe(waited)
        self.call.labels(model, network).observe(took)

    def dropped(self, reason: str) -> None:
        """A network call that was cancelled or too late before it was dispatched."""
        self.drops.labels(reason).inc()

    def text_cache(self, hit: bool) -> None:
        """One look-up of an encoded prompt."""
        self.text_lookups.labels("hit" if hit else "miss").inc()
